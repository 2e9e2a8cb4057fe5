"""A pipeline as Feast sees it: an entity, one wide feature view a source, DuckDB offline. Pure.

Nothing in it is ours alone but the features `__origin` and `__row`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from penstock.contracts.pipeline import Pipeline, Source
from penstock_feature_store import names
from penstock_feature_store.online.feast_import import (
    Bool,
    Bytes,
    Entity,
    FeatureView,
    Field,
    FileSource,
    Float64,
    RegistryConfig,
    RepoConfig,
    String,
    ValueType,
)

DTYPES = {"number": Float64, "category": String, "text": String, "boolean": Bool}
KEY_VERSION = 3  # serialization version of Feast's entity keys
# Feast's `online_store` section for a file in the repository's folder.
SQLITE: Final[Mapping[str, Any]] = {"type": "sqlite", "path": "online.db"}


def definitions(pipeline: Pipeline, path_of: Callable[[str], str]) -> tuple[list[Any], dict[str, Any]]:
    """(entities, feature views by source). `path_of`: where a source's Parquet lies."""
    entities = {
        name: Entity(name=names.view_of(name), join_keys=[names.ENTITY], value_type=ValueType.STRING)
        for name in pipeline.entities
    }
    views = {
        name: _view(pipeline, name, source, entities[source.entity], path_of(name))
        for name, source in pipeline.sources.items()
    }
    return list(entities.values()), views


def _view(pipeline: Pipeline, name: str, source: Source, entity: Any, path: str) -> Any:
    fields = {names.column_of(field): DTYPES[spec.type] for field, spec in source.fields.items()}
    columns = {names.ENTITY: String, **fields, names.ORIGIN: String, names.ROW: Bytes}
    # In whole days: Feast's DuckDB join takes no mixture of days and hours. Exact ages are enforced
    # by us, on both stores.
    days = -(-pipeline.training.max_age // timedelta(days=1))
    return FeatureView(
        name=names.view_of(name),
        entities=[entity],
        ttl=timedelta(days=days),
        schema=[Field(name=column, dtype=kind) for column, kind in columns.items()],
        source=FileSource(name=f"{names.view_of(name)}_lake", path=path, timestamp_field=names.TIME),
        online=True,
    )


def config(folder: Path, pipeline: str, online: Mapping[str, Any] = SQLITE) -> Any:
    """Feast's configuration of the repository in `folder`. `online`: its section `online_store`."""
    return RepoConfig(
        project=names.project_of(pipeline),
        provider="local",
        registry=RegistryConfig(registry_type="file", path=str(folder / "registry.db"), cache_ttl_seconds=0),
        online_store=dict(online),
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=KEY_VERSION,
        coerce_tz_aware=False,  # ours are; making sure costs a second for 50,000 labels
        repo_path=folder,
    )
