"""`python -m penstock_feature_store`"""

from __future__ import annotations

from penstock_feature_store.spawner import Spawner

if __name__ == "__main__":
    spawner = Spawner.start(warm="penstock_feature_store.training_sets")
    from penstock.runtime.lifecycle import run as run_service
    from penstock_feature_store.app import run
    from penstock_feature_store.settings import Settings

    run_service(lambda: run(Settings(), spawner))
