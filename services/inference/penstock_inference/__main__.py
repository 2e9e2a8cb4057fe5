"""`python -m penstock_inference`"""

from penstock.runtime.loading import loading

with loading():
    import uvloop

    from penstock.runtime.process import start
    from penstock_inference.app import run
    from penstock_inference.settings import Settings

if __name__ == "__main__":
    start(run, Settings, uvloop.run)
