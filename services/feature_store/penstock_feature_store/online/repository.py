"""A pipeline's Feast repository on disk: its definitions in a file registry, and the section that
says where its online store is.

The folder is one that Feast itself opens (`feast -c <folder> feature-views list`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import structlog

from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names
from penstock_feature_store.lake import durable
from penstock_feature_store.online.definitions import KEY_VERSION, config, definitions
from penstock_feature_store.online.feast_import import FeatureStore
from penstock_feature_store.online.stores import OnlineStores

log = structlog.get_logger(__name__)

LAYOUT = 1
"""Rises when the generated definitions change their form: every repository is applied again."""


class Repository:
    """`apply` brings the folder, and the online store, to the pipeline's definition. Its writer
    owns the lake.
    """

    def __init__(self, folder: Path, lake: Path, stores: OnlineStores) -> None:
        """`lake`: the folder with the pipeline's sources in it."""
        self.folder = folder
        self._lake = lake
        self._stores = stores

    def apply(self, pipeline: Pipeline) -> bool:
        """True when something changed. Repeats do nothing, also after a restart."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entities, views = definitions(pipeline, lambda source: str(self._lake / source / "*.parquet"))
        digest = self._digest(pipeline)
        applied = self.folder / "applied.json"
        lost = self._stores.lost(self.folder)
        known = json.loads(applied.read_bytes()) if applied.exists() and not lost else {}
        if known.get("digest") == digest:
            return False
        self._write_yaml(pipeline.pipeline)
        store = FeatureStore(config=config(self.folder, pipeline.pipeline, self._stores.section))
        gone: list[Any] = [
            view
            for view in store.list_feature_views()
            if view.name not in {view.name for view in views.values()}
        ]
        store.apply([*entities, *views.values()], objects_to_delete=gone, partial=False)
        _close(store)
        self._stores.applied(self.folder, {view.name for view in gone})
        durable.write_bytes(applied, json.dumps({"digest": digest}).encode())
        log.info(
            "repository_applied", pipeline=pipeline.pipeline, views=[view.name for view in views.values()]
        )
        return True

    def _write_yaml(self, pipeline: str) -> None:
        durable.write_bytes(
            self.folder / "feature_store.yaml",
            (
                f"project: {names.project_of(pipeline)}\nprovider: local\n"
                "registry: {registry_type: file, path: registry.db}\n"
                f"online_store: {json.dumps(dict(self._stores.section))}\n"
                f"offline_store: {{type: duckdb}}\nentity_key_serialization_version: {KEY_VERSION}\n"
            ).encode(),
        )

    def _digest(self, pipeline: Pipeline) -> str:
        said = pipeline.model_dump_json(include={"pipeline", "entities", "sources", "training"})
        return hashlib.sha256(
            f"{LAYOUT} {json.dumps(dict(self._stores.section))} {said}".encode()
        ).hexdigest()


def _close(store: Any) -> None:
    """SQLite's connection; to Redis there is none yet."""
    connection = getattr(store._get_provider().online_store, "_conn", None)
    if connection is not None:
        connection.close()
