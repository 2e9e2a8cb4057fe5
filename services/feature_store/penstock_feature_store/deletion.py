"""A pipeline is deleted: its lake, its online rows, its Feast repository and its training sets go.

Its files' rows in the database go last, in one transaction with all its others: as long as they are
there, something may be left, and a crash in between is made good when the fact is read again.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import structlog

from penstock.runtime.artifacts import Artifacts
from penstock.runtime.store import Store
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.store import drop_pipeline, kept_up_to, training_sets_up_to

log = structlog.get_logger(__name__)


class Deletion:
    """Blocking. For the replica that owns the lake, while nobody reads or writes the pipeline."""

    def __init__(
        self, store: Store, lake: Lake, stores: OnlineStores, repositories: Path, artifacts: Artifacts
    ) -> None:
        self._store = store
        self._lake = lake
        self._stores = stores
        self._repositories = repositories
        self._artifacts = artifacts

    def remove(self, name: str, number: int) -> None:
        """Removes all that was made of the pipeline's files up to `number`; nothing where that was done.
        Raises Unavailable where a store is away.
        """
        with self._store.snapshot() as session:
            files = kept_up_to(session, name, number)
            sets = training_sets_up_to(session, name, number)
        if not files:
            return
        folder = self._repositories / name
        with closing(self._stores.open(folder, files[-1])) as online:
            online.clear()
        self._lake.remove(name)
        shutil.rmtree(folder, ignore_errors=True)
        for training_set in sets:
            self._artifacts.delete(f"training-sets/{training_set}")
        with self._store.transaction() as effect:
            drop_pipeline(effect.session, name, number)
        log.info("pipeline_removed", pipeline=name, number=number, training_sets=len(sets))
