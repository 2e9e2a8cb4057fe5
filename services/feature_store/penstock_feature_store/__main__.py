"""`python -m penstock_feature_store`

Longer than the others': the spawner forks before this process has a thread, so before anything else
is imported.
"""

from __future__ import annotations

from penstock.runtime.loading import loading
from penstock_feature_store.training.spawner import Spawner

if __name__ == "__main__":
    spawner = Spawner.start(warm="penstock_feature_store.training.join")
    with loading():
        from penstock.runtime.process import start
        from penstock_feature_store.app import run
        from penstock_feature_store.settings import Settings

    start(lambda settings: run(settings, spawner), Settings)
