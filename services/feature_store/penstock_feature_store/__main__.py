"""`python -m penstock_feature_store`"""

from penstock.runtime.lifecycle import start
from penstock_feature_store.app import run
from penstock_feature_store.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
