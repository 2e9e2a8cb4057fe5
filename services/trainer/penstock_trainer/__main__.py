"""`python -m penstock_trainer`"""

from penstock.runtime.loading import loading

with loading():
    from penstock.runtime.process import start
    from penstock_trainer.app import run
    from penstock_trainer.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
