"""`python -m penstock_tuner`"""

from penstock.runtime.loading import loading

with loading():
    from penstock.runtime.process import start
    from penstock_tuner.app import run
    from penstock_tuner.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
