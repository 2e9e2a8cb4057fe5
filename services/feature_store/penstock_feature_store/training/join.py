"""Builds a training set from a snapshot of the lake: labels, features as of each label's time,
parts, fingerprint.

Runs in a process of its own, which gives its memory back. The join is DuckDB's, in bounded memory;
what it returns is counted, since another join was seen to drop rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401  pyarrow imports it with its first array: so it is there before the process forks
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from penstock.contracts.errors import Conflict, PenstockError
from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline, Split
from penstock.runtime.artifacts import Artifacts
from penstock_feature_store import names
from penstock_feature_store.training.columns import Columns, columns_of, source_of
from penstock_feature_store.training.fingerprint import fingerprint
from penstock_feature_store.training.labels import Labels, labels_of
from penstock_feature_store.training.parts import Part, write
from penstock_feature_store.training.snapshot import ROW, TIME, Snapshot, database
from penstock_feature_store.training.splits import PARTS, Parts, by_entity, by_time

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
    with database(order.folder) as opened:
        lake = Snapshot(opened, order.folder / "lake", pipeline)
        rows = lake.labels()
        labels = _labels(pipeline, rows)
        assigned = _assigned(pipeline, rows)
        _refuse_useless(pipeline, rows, labels, assigned)
        schema = _schema(pipeline, columns, labels)
        tables = _tables(columns, rows, labels, schema, lake.joined(columns.references))
        parts = write(tables, assigned, schema, order.folder)
        offsets = lake.offsets()
    _refuse_missing(pipeline.pipeline, columns, parts["train"])
    ranges = [(part.topic, part.partition, part.first, part.last) for part in offsets]
    with ThreadPoolExecutor(max_workers=1) as storing:
        artifacts = Artifacts(order.artifacts)
        stored = {
            name: storing.submit(artifacts.put_file, key_of(order.id, name), part.path)
            for name, part in parts.items()
        }
        named = fingerprint(parts, _asked(pipeline, columns, labels.classes), ranges)
        written = {name: part.result() for name, part in stored.items()}
    return TrainingSet(
        fingerprint=named,
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


def _labels(pipeline: Pipeline, rows: pa.Table) -> Labels:
    where = pipeline.target.source_field
    if rows.num_rows == 0:
        raise Conflict(
            f"no labels yet: no event of `{source_of(where)}` carries a value",
            where=where,
            remedy="Publish labelled events first",
        )
    labels = labels_of(pipeline, rows.column("label"))
    if rows.num_rows < MIN_ROWS:
        raise Conflict(
            f"{rows.num_rows} labelled rows, at least {MIN_ROWS} are needed",
            where=pipeline.pipeline,
            remedy="Publish more labelled events",
        )
    return labels


def _assigned(pipeline: Pipeline, rows: pa.Table) -> Parts:
    split = pipeline.split or Split(by=pipeline.entity)
    if split.by == "time":
        return by_time(rows.column(names.TIME).cast(pa.int64()).to_numpy(), split.parts)
    entities = rows.column(names.ENTITY).combine_chunks().dictionary_encode()
    part_of = by_entity(entities.dictionary.to_pylist(), split.parts, pipeline.training.seed)
    assigned: Parts = part_of[entities.indices.to_numpy()]
    return assigned


def _schema(pipeline: Pipeline, columns: Columns, labels: Labels) -> pa.Schema:
    def typed(name: str, reference: str) -> pa.Field:
        number = pipeline.field(reference).type == "number"
        return pa.field(name, pa.float64() if number else pa.string())

    described = {
        "features": {
            name: {"type": pipeline.field(reference).type, "source_field": reference}
            for name, reference in columns.features.items()
        },
        "target": next(iter(pipeline.targets)),
        "classes": list(labels.classes),
        **({"merged": dict(labels.merged)} if labels.merged else {}),
    }
    fields = [
        pa.field(names.ENTITY, pa.string()),
        pa.field(names.ID, pa.string()),
        pa.field(names.TIME, TIME),
        *(typed(name, reference) for name, reference in columns.features.items()),
        pa.field("__label", labels.values.type),
        *(typed(f"__group_{name}", reference) for name, reference in columns.groups.items()),
        *([typed("__weight", columns.weight)] if columns.weight else []),
    ]
    return pa.schema(fields, metadata={"penstock": json.dumps(described, ensure_ascii=False)})


def _tables(
    columns: Columns, rows: pa.Table, labels: Labels, schema: pa.Schema, joined: Iterable[pa.RecordBatch]
) -> Iterator[pa.Table]:
    """The set's rows in pieces. Raises PenstockError where the join lost, doubled or moved one."""
    start = 0
    for batch in joined:
        places = batch.column(ROW).to_numpy()
        if not np.array_equal(places, np.arange(start, start + len(batch))):
            break
        here = rows.slice(start, len(batch))
        data = {
            names.ENTITY: here.column(names.ENTITY),
            names.ID: here.column(names.ID),
            names.TIME: here.column(names.TIME),
            **{name: batch.column(reference) for name, reference in columns.features.items()},
            "__label": labels.values.slice(start, len(batch)),
            **{f"__group_{name}": batch.column(reference) for name, reference in columns.groups.items()},
            **({"__weight": batch.column(columns.weight)} if columns.weight else {}),
        }
        yield pa.table([data[field.name].cast(field.type) for field in schema], schema=schema)
        start += len(batch)
    if start != rows.num_rows:
        raise PenstockError(
            f"the join gave {start:,} rows in their order for {rows.num_rows:,} labels; this is a bug"
        )


def _refuse_useless(pipeline: Pipeline, rows: pa.Table, labels: Labels, assigned: Parts) -> None:
    """Refuses a split with an empty part, or with a class that the train part lacks."""
    counts = np.bincount(assigned, minlength=len(PARTS))
    for name, count in zip(PARTS, counts, strict=True):
        if not count:
            entities = len(pc.unique(rows.column(names.ENTITY)))
            raise Conflict(
                f"the {name} part is empty: {rows.num_rows:,} rows of {entities:,} entities",
                where=f"split.parts.{name}",
                remedy="Publish more labelled events, or give this part a larger share",
            )
    if not labels.classes:
        return
    indices = labels.values.to_numpy()
    whole, train = (
        np.bincount(of, minlength=len(labels.classes)) for of in (indices, indices[assigned == 0])
    )
    if (train == 0).any():
        index = int(np.argmin(train))
        raise Conflict(
            f"the train part has no row labelled `{labels.classes[index]}`, the whole"
            f" {whole[index]} of {rows.num_rows:,}",
            where="split.parts.train",
            remedy=(
                "Publish more events of that class. If it is a mistake, `penstock erase"
                f" {pipeline.pipeline} ENTITY` takes out whoever has it; with its `values` declared,"
                f" `{pipeline.target.source_field}` takes no other"
            ),
        )


def _refuse_missing(pipeline: str, columns: Columns, train: Part) -> None:
    for name, reference in columns.features.items():
        if train.missing[name] == train.num_rows:
            raise Conflict(
                f"{reference} is missing in all {train.num_rows:,} rows of the train part",
                where=f"features.{name}",
                remedy=(
                    "Take it out of `features`, or publish events that carry it under ids of their own: one"
                    " whose id came before changes nothing. Of a pipeline that never served `penstock delete"
                    f" {pipeline}` takes the old ones"
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
