"""`python -m penstock_ethics_audit`"""

from penstock.runtime.loading import loading

with loading():
    from penstock.runtime.process import start
    from penstock_ethics_audit.app import run
    from penstock_ethics_audit.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
