"""A pipeline as a Feast repository: an entity, one wide feature view a source, a file registry, SQLite online, DuckDB offline.

The folder is one that Feast itself opens (`feast -c <folder> feature-views list`): nothing in it is ours alone but the feature `__origin`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from penstock.contracts.pipeline import Pipeline, Source
from penstock_feature_store import durable, names
from penstock_feature_store.feast_import import (
    Bool,
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    Float64,
    RegistryConfig,
    RepoConfig,
    String,
    UnixTimestamp,
    ValueType,
)

log = structlog.get_logger(__name__)

DTYPES = {"number": Float64, "category": String, "text": String, "boolean": Bool}
KEY_VERSION = 3
"""Of Feast's entity keys."""
LAYOUT = 1
"""Rises when the generated definitions change their form: every repository is applied again."""


def definitions(pipeline: Pipeline, path_of: Callable[[str], str]) -> tuple[list[Any], dict[str, Any]]:
    """(entities, feature views by source). `path_of`: where a source's Parquet lies."""
    entities = {name: Entity(name=names.view_of(name), join_keys=[names.ENTITY], value_type=ValueType.STRING) for name in pipeline.entities}
    views = {name: _view(pipeline, name, source, entities[source.entity], path_of(name)) for name, source in pipeline.sources.items()}
    return list(entities.values()), views


def _view(pipeline: Pipeline, name: str, source: Source, entity: Any, path: str) -> Any:
    fields = [Field(name=names.column_of(field), dtype=DTYPES[spec.type]) for field, spec in source.fields.items()]
    return FeatureView(
        name=names.view_of(name),
        entities=[entity],
        ttl=_whole(pipeline.training.max_age),
        schema=[
            Field(name=names.ENTITY, dtype=String),
            *fields,
            Field(name=names.ORIGIN, dtype=String),
            Field(name=names.AT, dtype=UnixTimestamp),
        ],
        source=FileSource(name=f"{names.view_of(name)}_lake", path=path, timestamp_field=names.TIME),
        online=True,
    )


def _whole(age: timedelta) -> timedelta:
    """Not below `age`, in days: Feast's DuckDB join takes no mixture of days and hours. Exact ages are enforced by us, on both stores."""
    return timedelta(days=-(-age // timedelta(days=1)))


def config(folder: Path, pipeline: str) -> Any:
    return RepoConfig(
        project=names.project_of(pipeline),
        provider="local",
        registry=RegistryConfig(registry_type="file", path=str(folder / "registry.db"), cache_ttl_seconds=0),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=KEY_VERSION,
        coerce_tz_aware=False,  # ours are; making sure costs a second for 50,000 labels
    )


class Repository:
    """One pipeline's Feast repository on disk. `apply` brings it to the pipeline's definition; the feature views are kept at hand."""

    def __init__(self, folder: Path, lake: Path) -> None:
        """`lake`: the folder with the pipeline's sources in it."""
        self.folder = folder
        self.online = folder / "online.db"
        self._lake = lake
        self.views: Mapping[str, Any] = {}
        self.pipeline: Pipeline | None = None

    def apply(self, pipeline: Pipeline) -> bool:
        """True when something changed. Repeats do nothing, also after a restart."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entities, views = definitions(pipeline, lambda source: str(self._lake / source / "*.parquet"))
        digest = _digest(pipeline)
        applied = self.folder / "applied.json"
        known = json.loads(applied.read_bytes()) if applied.exists() and self._online_is_whole() else {}
        if known.get("digest") != digest:
            self._write_yaml(pipeline.pipeline)
            store = self.open_store(pipeline.pipeline)
            gone = [view for view in store.list_feature_views() if view.name not in {view.name for view in views.values()}]
            store.apply([*entities, *views.values()], objects_to_delete=gone, partial=False)
            _close(store)
            with sqlite3.connect(self.online) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.close()
            durable.write_bytes(applied, json.dumps({"digest": digest}).encode())
            log.info("repository_applied", pipeline=pipeline.pipeline, views=[view.name for view in views.values()])
        self.views, self.pipeline = views, pipeline
        return bool(known.get("digest") != digest)

    def open_store(self, pipeline: str) -> Any:
        """A FeatureStore of its own, with its own connection to the online store. Close it with `close`."""
        return FeatureStore(config=config(self.folder, pipeline))

    def _online_is_whole(self) -> bool:
        """An online store that is gone or broken is made anew, empty, and filled from the lake."""
        if not self.online.exists():
            return False
        try:
            with sqlite3.connect(self.online) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            log.warning("online_store_broken", path=str(self.online), error=str(error))
            for path in self.folder.glob("online.db*"):
                path.unlink()
            return False
        finally:
            connection.close()
        return True

    def _write_yaml(self, pipeline: str) -> None:
        durable.write_bytes(
            self.folder / "feature_store.yaml",
            (
                f"project: {names.project_of(pipeline)}\nprovider: local\n"
                "registry: {registry_type: file, path: registry.db}\n"
                "online_store: {type: sqlite, path: online.db}\n"
                f"offline_store: {{type: duckdb}}\nentity_key_serialization_version: {KEY_VERSION}\n"
            ).encode(),
        )


def _close(store: Any) -> None:
    connection = store._get_provider().online_store._conn
    if connection is not None:
        connection.close()


def _digest(pipeline: Pipeline) -> str:
    said = pipeline.model_dump_json(include={"pipeline", "entities", "sources", "training"})
    return hashlib.sha256(f"{LAYOUT} {said}".encode()).hexdigest()
