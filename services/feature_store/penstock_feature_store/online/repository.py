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

# Rises when the generated definitions change their form: every repository is applied again.
LAYOUT = 2


def apply(pipeline: Pipeline, folder: Path, lake: Path, stores: OnlineStores) -> bool:
    """Brings the repository in `folder`, and the online store, to the pipeline's definition. Its
    writer owns the lake; `lake` is the folder with the pipeline's sources in it.

    True when something changed. Repeats do nothing, also after a restart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    section = json.dumps(dict(stores.section))
    declared = pipeline.model_dump_json(include={"pipeline", "entities", "sources", "training"})
    digest = hashlib.sha256(f"{LAYOUT} {section} {declared}".encode()).hexdigest()
    applied = folder / "applied.json"
    lost = stores.lost(folder)
    if applied.exists() and not lost and json.loads(applied.read_bytes())["digest"] == digest:
        return False
    yaml = (
        f"project: {names.project_of(pipeline.pipeline)}\nprovider: local\n"
        "registry: {registry_type: file, path: registry.db}\n"
        f"online_store: {section}\n"
        f"offline_store: {{type: duckdb}}\nentity_key_serialization_version: {KEY_VERSION}\n"
    )
    durable.write_bytes(folder / "feature_store.yaml", yaml.encode())
    entities, by_source = definitions(pipeline, lambda source: str(lake / source / "*.parquet"))
    views = {view.name: view for view in by_source.values()}
    store = FeatureStore(config=config(folder, pipeline.pipeline, stores.section))
    gone: list[Any] = [view for view in store.list_feature_views() if view.name not in views]
    store.apply([*entities, *views.values()], objects_to_delete=gone, partial=False)
    connection = getattr(store._get_provider().online_store, "_conn", None)  # to Redis there is none yet
    if connection is not None:
        connection.close()
    stores.applied(folder, {view.name for view in gone})
    durable.write_bytes(applied, json.dumps({"digest": digest}).encode())
    log.info("repository_applied", pipeline=pipeline.pipeline, views=list(views))
    return True
