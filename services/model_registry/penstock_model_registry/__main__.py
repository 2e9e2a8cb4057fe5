"""`python -m penstock_model_registry`"""

from penstock.runtime.loading import loading

with loading():
    from penstock.runtime.process import start
    from penstock_model_registry.app import run
    from penstock_model_registry.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
