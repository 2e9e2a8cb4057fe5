"""Builds a training set from a snapshot of the lake: labels, features as of each label's time,
parts, fingerprint.

Runs in a process of its own: Feast and DuckDB take what memory they need and give it back. The join
is Feast's `get_historical_features` with its DuckDB store; what it returns is counted, since
another of its stores was seen to drop rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from penstock.contracts.errors import Conflict, PenstockError
from penstock.contracts.events import OffsetRange, TrainingSet
from penstock.contracts.pipeline import Pipeline, Split
from penstock.runtime.artifacts import Artifacts
from penstock_feature_store import names
from penstock_feature_store.online.definitions import config, definitions
from penstock_feature_store.online.feast_import import FeatureStore
from penstock_feature_store.training.columns import Columns, columns_of, place_of, source_of
from penstock_feature_store.training.fingerprint import fingerprint
from penstock_feature_store.training.labels import Labels, labels_of
from penstock_feature_store.training.snapshot import ROW, TIME, Snapshot
from penstock_feature_store.training.splits import PARTS, by_entity, by_time

MIN_ROWS = 50  # labelled ones; fewer make no three parts that say anything


class Order(BaseModel, frozen=True):
    """A training set to build. `folder`: scratch, with the lake's files of each source in
    `lake/<source>/`; the caller removes it. `artifacts`: root URI.
    """

    id: str
    pipeline: Pipeline
    folder: Path
    artifacts: str
    created_at: datetime


def build(order: Order) -> TrainingSet:
    """Writes the three parts as artifacts and names them. Raises Conflict or Invalid with what to change."""
    pipeline, columns = order.pipeline, columns_of(order.pipeline)
    rows, labels, offsets = _snapshot(order, columns)
    joined = join(pipeline, columns, rows, order.folder)
    parts = _parts(pipeline, _table(pipeline, columns, rows, joined, labels))
    _refuse_useless(pipeline, columns, parts, labels.classes)
    artifacts = Artifacts(order.artifacts)
    written = {}
    for name, part in parts.items():
        scratch = order.folder / f"{name}.out"
        pq.write_table(part, scratch, compression="zstd", compression_level=1)
        written[name] = artifacts.put_file(key_of(order.id, name), scratch)
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


def _snapshot(order: Order, columns: Columns) -> tuple[pa.Table, Labels, list[OffsetRange]]:
    """Labelled rows, their labels, and the events behind all rows; writes each source's features."""
    pipeline = order.pipeline
    with duckdb.connect() as database:
        database.execute("SET TimeZone='UTC'")
        lake = Snapshot(database, order.folder / "lake", pipeline)
        rows = lake.labels()
        if rows.num_rows == 0:
            raise Conflict(
                f"no labels yet: no event of `{source_of(pipeline.target.source_field)}` carries a value",
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
        for source, references in itertools.groupby(sorted(columns.references), source_of):
            lake.write_features(source, list(references), order.folder / f"{source}.parquet")
        return rows, labels, lake.offsets()


def join(pipeline: Pipeline, columns: Columns, rows: pa.Table, folder: Path) -> pa.Table:
    """Joins to each label its features as of its time and no older than `training.max_age`; one column
    a reference, in the rows' order.

    A label without such a row keeps its place, everything missing. Raises PenstockError where Feast
    lost or doubled a row.
    """
    store = _feast(pipeline, columns, folder)
    asked = {
        reference: (names.view_of(source), column)
        for reference in columns.references
        for source, column in [place_of(reference)]
    }
    labels = pd.DataFrame(
        {
            names.ENTITY: rows.column(names.ENTITY).to_pandas(),
            "event_timestamp": rows.column(names.TIME).to_pandas().astype("datetime64[us, UTC]"),
            ROW: rows.column(ROW).to_numpy(),
        }
    )
    views = dict.fromkeys(view for view, _ in asked.values())
    refs = [f"{view}:{column}" for view, column in [*asked.values(), *((view, names.AT) for view in views)]]
    job = store.get_historical_features(labels, features=refs, full_feature_names=True)
    found = job.to_arrow().sort_by(ROW)
    if not np.array_equal(found.column(ROW).to_numpy(), np.arange(rows.num_rows)):
        raise PenstockError(
            f"the join gave {found.num_rows:,} rows for {rows.num_rows:,} labels; this is a bug",
            where=pipeline.pipeline,
        )
    times = rows.column(names.TIME).cast(TIME)
    ages = {view: pc.subtract(times, found.column(f"{view}__{names.AT}").cast(TIME)) for view in views}
    oldest = pa.scalar(pipeline.training.max_age, pa.duration("us"))
    fresh = {view: pc.less_equal(age, oldest) for view, age in ages.items()}
    return pa.table(
        {
            reference: pc.if_else(fresh[view], found.column(f"{view}__{column}"), None)
            for reference, (view, column) in asked.items()
        }
    )


def _feast(pipeline: Pipeline, columns: Columns, folder: Path) -> Any:
    """Feast's store over the files in `folder`, with the views of the sources that are asked."""
    store = FeatureStore(config=config(folder, pipeline.pipeline))
    entities, views = definitions(pipeline, lambda source: str(folder / f"{source}.parquet"))
    for entity in entities:
        store.registry.apply_entity(entity, store.project, commit=False)
    asked = set(map(source_of, columns.references))
    for view in (view for source, view in views.items() if source in asked):
        store.registry.apply_feature_view(view, store.project, commit=False)
    store.registry.commit()  # type: ignore[no-untyped-call]
    return store


def _table(
    pipeline: Pipeline, columns: Columns, rows: pa.Table, joined: pa.Table, labels: Labels
) -> pa.Table:
    data = {
        names.ENTITY: rows.column(names.ENTITY),
        names.ID: rows.column(names.ID),
        names.TIME: rows.column(names.TIME).cast(TIME),
        **{name: _plain(joined.column(reference)) for name, reference in columns.features.items()},
        "__label": labels.values,
        **{f"__group_{name}": _plain(joined.column(reference)) for name, reference in columns.groups.items()},
        **({"__weight": _plain(joined.column(columns.weight))} if columns.weight else {}),
    }
    described = {
        "features": {
            name: {"type": pipeline.field(reference).type, "source_field": reference}
            for name, reference in columns.features.items()
        },
        "target": next(iter(pipeline.targets)),
        "classes": list(labels.classes),
        **({"merged": dict(labels.merged)} if labels.merged else {}),
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


def _refuse_useless(
    pipeline: Pipeline, columns: Columns, parts: Mapping[str, pa.Table], classes: Sequence[str]
) -> None:
    whole = pa.concat_tables(parts.values())
    entities = len(pc.unique(whole.column(names.ENTITY)))
    for name, part in parts.items():
        if not part.num_rows:
            raise Conflict(
                f"the {name} part is empty: {whole.num_rows:,} rows of {entities:,} entities",
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
    seen = set(train.column("__label").to_pylist())
    absent = [(index, name) for index, name in enumerate(classes) if index not in seen]
    if absent:
        index, name = absent[0]
        raise Conflict(
            f"the train part has no row labelled `{name}`, the whole"
            f" {whole.column('__label').to_pylist().count(index)} of {whole.num_rows:,}",
            where="split.parts.train",
            remedy=(
                "Publish more events of that class. If it is a mistake, `penstock erase"
                f" {pipeline.pipeline} ENTITY` takes out whoever has it; with its `values` declared,"
                f" `{pipeline.target.source_field}` takes no other"
            ),
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
        **({"weight": columns.weight} if columns.weight else {}),
    }
