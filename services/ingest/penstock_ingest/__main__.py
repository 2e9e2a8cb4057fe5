"""`python -m penstock_ingest`"""

from penstock.runtime.loading import loading

with loading():
    from penstock.runtime.process import start
    from penstock_ingest.app import run
    from penstock_ingest.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
