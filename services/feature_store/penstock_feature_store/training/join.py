"""Builds a training set from a snapshot of the lake: labels, features as of each label's time,
parts, fingerprint.

Runs in a process of its own: Feast and DuckDB take what memory they need and give it back. The join
is Feast's `get_historical_features` with its DuckDB store; what it returns is counted, since
another of its stores was seen to drop rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from penstock.contracts.errors import Conflict, Invalid, PenstockError
from penstock.contracts.events import Artifact, TrainingSet
from penstock.contracts.pipeline import Pipeline, Split
from penstock.runtime.artifacts import Artifacts
from penstock_feature_store import names
from penstock_feature_store.online.definitions import config, definitions
from penstock_feature_store.online.feast_import import FeatureStore
from penstock_feature_store.training.fingerprint import fingerprint
from penstock_feature_store.training.labels import labels_of
from penstock_feature_store.training.snapshot import ROW, TIME, Columns, Snapshot
from penstock_feature_store.training.splits import PARTS, by_entity, by_time

MIN_ROWS = 50
"""Labelled rows; fewer make no three parts that say anything."""


class Order(BaseModel, frozen=True):
    """A training set to build: inputs, parameters and target folder."""

    id: str
    pipeline: Pipeline
    folder: Path
    """Scratch, with the lake's files of each source in `lake/<source>/`. The caller removes it."""
    artifacts: str
    """Root URI."""
    created_at: datetime


def build(order: Order) -> TrainingSet:
    """Writes the three parts as artifacts and names them. Raises Conflict or Invalid with what to change."""
    pipeline = order.pipeline
    columns = columns_of(pipeline)
    with duckdb.connect() as database:
        database.execute("SET TimeZone='UTC'")
        lake = Snapshot(database, order.folder / "lake", pipeline)
        rows = lake.labels()
        if rows.num_rows == 0:
            raise Conflict(
                f"no labels yet: no event of `{pipeline.target.source_field.partition('.')[0]}` carries a"
                " value",
                where=pipeline.target.source_field,
                remedy="Publish labelled events first",
            )
        labels = labels_of(pipeline, rows.column("label"))
        if rows.num_rows < MIN_ROWS:
            raise Conflict(
                f"{rows.num_rows} labelled rows, at least {MIN_ROWS} are needed",
                where=pipeline.pipeline,
                remedy="Publish more labelled events",
            )
        for source in sorted({reference.partition(".")[0] for reference in columns.references}):
            lake.write_features(
                source,
                [r for r in columns.references if r.startswith(f"{source}.")],
                order.folder / f"{source}.parquet",
            )
        offsets = lake.offsets()
    joined = join(pipeline, columns, rows, order.folder)
    table = _table(pipeline, columns, rows, joined, labels.values, labels.classes)
    parts = _parts(pipeline, table)
    _refuse_useless(columns, parts, labels.classes)
    artifacts = Artifacts(order.artifacts)
    written = {
        name: _write(artifacts, key_of(order.id, name), part, order.folder / f"{name}.out")
        for name, part in parts.items()
    }
    ranges = [(part.topic, part.partition, part.first, part.last) for part in offsets]
    return TrainingSet(
        fingerprint=fingerprint(parts, _asked(pipeline, columns, labels.classes), ranges),
        pipeline=pipeline.pipeline,
        train=written["train"],
        validation=written["validation"],
        audit=written["audit"],
        rows={name: part.num_rows for name, part in parts.items()},
        offsets=tuple(offsets),
        created_at=order.created_at,
    )


def key_of(training_set: str, part: str) -> str:
    """The part's key in the artifact store."""
    return f"training-sets/{training_set}/{part}.parquet"


def manifest_key(training_set: str) -> str:
    """Key of the TrainingSet artifact as it stands now: an erasure rewrites it with its parts' new
    digests.
    """
    return f"training-sets/{training_set}/training_set.json"


def build_json(order: dict[str, Any]) -> dict[str, Any]:
    """`build` for another process."""
    return build(Order.model_validate(order)).model_dump(mode="json")


def columns_of(pipeline: Pipeline) -> Columns:
    """Features, and the raw groups that the audit and a fairness constraint need. Raises Invalid
    where nothing joins them to the label.
    """
    features = {name: feature.source_field for name, feature in pipeline.resolved_features().items()}
    target = pipeline.target.source_field.partition(".")[0]
    sources = [
        name
        for name in pipeline.sources
        if name == target or any(r.startswith(f"{name}.") for r in features.values())
    ]
    wanted = dict.fromkeys(
        name
        for source in sources
        for name, field in pipeline.sources[source].fields.items()
        if field.protected
    )
    wanted |= dict.fromkeys(pipeline.audit.groups)
    wanted |= dict.fromkeys(gate.by for gate in pipeline.audit.gates if gate.by)
    if pipeline.trainer.fairness:
        wanted |= {pipeline.trainer.fairness.by: None}
    groups = {name: _reference(pipeline, name, sources) for name in wanted}
    entity = pipeline.sources[target].entity
    for reference in [*features.values(), *groups.values()]:
        other = pipeline.sources[reference.partition(".")[0]].entity
        if other != entity:
            raise Invalid(
                f"{reference} is about `{other}`, the label {pipeline.target.source_field} about `{entity}`:"
                " nothing joins them",
                where="features",
                remedy="Use fields of sources with the label's entity",
            )
    if pipeline.split and pipeline.split.by not in ("time", entity):
        raise Invalid(
            f"rows are about `{entity}`, not `{pipeline.split.by}`",
            where="split.by",
            remedy=f"Write `by: {entity}` or `by: time`",
        )
    return Columns(features, groups)


def _reference(pipeline: Pipeline, field: str, sources: Sequence[str]) -> str:
    for source in [*sources, *pipeline.sources]:
        if field in pipeline.sources[source].fields:
            return f"{source}.{field}"
    raise Invalid(
        f"no source has a field `{field}`", where=f"audit.groups.{field}", remedy="Name a declared field"
    )


def join(pipeline: Pipeline, columns: Columns, rows: pa.Table, folder: Path) -> pa.Table:
    """Joins to each label its features as of its time and no older than `training.max_age`; one column
    a reference, in the rows' order.

    A label without such a row keeps its place, everything missing. Raises PenstockError where Feast
    lost or doubled a row.
    """
    store = FeatureStore(config=config(folder, pipeline.pipeline))
    entities, views = definitions(pipeline, lambda source: str(folder / f"{source}.parquet"))
    for entity in entities:
        store.registry.apply_entity(entity, store.project, commit=False)
    for source, view in views.items():
        if any(reference.startswith(f"{source}.") for reference in columns.references):
            store.registry.apply_feature_view(view, store.project, commit=False)
    store.registry.commit()  # type: ignore[no-untyped-call]
    asked = {reference: _place(reference) for reference in columns.references}
    labels = pd.DataFrame(
        {
            names.ENTITY: rows.column(names.ENTITY).to_pandas(),
            "event_timestamp": rows.column(names.TIME).to_pandas().astype("datetime64[us, UTC]"),
            ROW: rows.column(ROW).to_numpy(),
        }
    )
    refs = [f"{view}:{column}" for view, column in asked.values()]
    ages = {view: f"{view}__{names.AT}" for view, _ in asked.values()}
    job = store.get_historical_features(
        labels, features=[*refs, *(f"{view}:{names.AT}" for view in ages)], full_feature_names=True
    )
    found = job.to_arrow().sort_by(ROW)
    if not np.array_equal(found.column(ROW).to_numpy(), np.arange(rows.num_rows)):
        raise PenstockError(
            f"the join gave {found.num_rows:,} rows for {rows.num_rows:,} labels; this is a bug",
            where=pipeline.pipeline,
        )
    times = rows.column(names.TIME).cast(TIME)
    fresh = {
        view: _within(times, found.column(at).cast(TIME), pipeline.training.max_age)
        for view, at in ages.items()
    }
    return pa.table(
        {
            reference: pc.if_else(fresh[view], found.column(f"{view}__{column}"), None)
            for reference, (view, column) in asked.items()
        }
    )


def _within(times: pa.ChunkedArray, at: pa.ChunkedArray, age: timedelta) -> pa.ChunkedArray:
    return pc.less_equal(pc.subtract(times, at), pa.scalar(age, pa.duration("us")))


def _place(reference: str) -> tuple[str, str]:
    """(feature view, column)"""
    source, _, field = reference.partition(".")
    return names.view_of(source), names.column_of(field)


def _table(
    pipeline: Pipeline,
    columns: Columns,
    rows: pa.Table,
    joined: pa.Table,
    labels: pa.Array,
    classes: Sequence[str],
) -> pa.Table:
    data = {
        names.ENTITY: rows.column(names.ENTITY),
        names.ID: rows.column(names.ID),
        names.TIME: rows.column(names.TIME).cast(TIME),
        **{name: _plain(joined.column(reference)) for name, reference in columns.features.items()},
        "__label": labels,
        **{f"__group_{name}": _plain(joined.column(reference)) for name, reference in columns.groups.items()},
    }
    described = {
        "features": {
            name: {"type": pipeline.field(reference).type, "source_field": reference}
            for name, reference in columns.features.items()
        },
        "target": next(iter(pipeline.targets)),
        "classes": list(classes),
    }
    return pa.table(data).replace_schema_metadata({"penstock": json.dumps(described, ensure_ascii=False)})


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """float64 or string; a boolean becomes true or false in words."""
    return column.cast(pa.float64() if pa.types.is_floating(column.type) else pa.string())


def _parts(pipeline: Pipeline, table: pa.Table) -> dict[str, pa.Table]:
    split = pipeline.split or Split(by=pipeline.entity)
    if split.by == "time":
        part = by_time(table.column(names.TIME).cast(pa.int64()).to_numpy(), split.parts)
    else:
        part = by_entity(table.column(names.ENTITY).to_pylist(), split.parts, pipeline.training.seed)
    return {name: table.filter(pa.array(part == number)) for number, name in enumerate(PARTS)}


def _refuse_useless(columns: Columns, parts: Mapping[str, pa.Table], classes: Sequence[str]) -> None:
    total = sum(part.num_rows for part in parts.values())
    for name, part in parts.items():
        if not part.num_rows:
            raise Conflict(
                f"the {name} part is empty: {total:,} rows of {_entities(parts):,} entities",
                where=f"split.parts.{name}",
                remedy="Publish more labelled events, or give this part a larger share",
            )
    train = parts["train"]
    for name, reference in columns.features.items():
        if train.column(name).null_count == train.num_rows:
            raise Conflict(
                f"{reference} is missing in all {train.num_rows:,} rows of the train part",
                where=f"features.{name}",
                remedy="Publish events that carry it, or take it out of `features`",
            )
    seen = set(train.column("__label").to_pylist()) if classes else set()
    absent = [name for index, name in enumerate(classes) if index not in seen]
    if absent:
        raise Conflict(
            f"the train part has no row labelled `{absent[0]}`",
            where="split.parts.train",
            remedy="Publish more events of that class",
        )


def _entities(parts: Mapping[str, pa.Table]) -> int:
    return len(
        {entity for part in parts.values() for entity in pc.unique(part.column(names.ENTITY)).to_pylist()}
    )


def _asked(pipeline: Pipeline, columns: Columns, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "features": dict(columns.features),
        "groups": dict(columns.groups),
        "target": pipeline.target.model_dump(mode="json"),
        "classes": list(classes),
        "split": pipeline.split.model_dump(mode="json") if pipeline.split else None,
        "seed": pipeline.training.seed,
        "max_age": pipeline.training.max_age.total_seconds(),
    }


def _write(artifacts: Artifacts, key: str, table: pa.Table, scratch: Path) -> Artifact:
    pq.write_table(table, scratch, compression="zstd", compression_level=1)
    return artifacts.put_file(key, scratch)
