"""`python -m penstock_edge_gateway`: the hub."""

from penstock.runtime.loading import loading

with loading():
    from penstock.runtime.process import start
    from penstock_edge_gateway.app import run
    from penstock_edge_gateway.settings import Settings

if __name__ == "__main__":
    start(run, Settings)
