"""python -m penstock_inference"""

from penstock.runtime.lifecycle import run as run_service
from penstock_inference.app import run
from penstock_inference.settings import Settings

if __name__ == "__main__":
    run_service(lambda: run(Settings()))
