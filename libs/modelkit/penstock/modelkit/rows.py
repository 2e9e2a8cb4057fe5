"""Columns of the model: their signature, and a part of a training set in memory, raw values as the
model takes them, labels, groups.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Group, Pipeline
from penstock.packages.parts import Inputs, ModelSignature, Output, TargetSignature

LABEL, WEIGHT, GROUP = "__label", "__weight", "__group_"


class RowSource(Protocol):
    """A part of a training set: `Rows`, or rows that stay in their file (`penstock.modelkit.stored`).
    `labels`, `groups` and `weights` are those of `Rows`.
    """

    @property
    def labels(self) -> np.ndarray[tuple[int], np.dtype[Any]]: ...

    @property
    def groups(self) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.object_]]]: ...

    @property
    def weights(self) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None: ...

    def __len__(self) -> int: ...

    def chunks(self, most: int) -> Iterator[Rows]:
        """Rows in their order, at most so many at a time; an empty part is one empty chunk."""

    def sampled(self) -> Rows:
        """Rows, all of them or, of those that stay in their file, a seeded sample."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Raw values as the model's own inputs take them, in the signature's field order.

    numbers: float64 [N, n], missing is NaN. strings: object [N, m] of str, missing is "". labels:
    float64 [N] (regression) or int64 [N] (index into the signature's classes). groups: by field,
    object [N] of str, float or None. weights: float64 [N] with mean 1, where the pipeline names some.
    """

    numbers: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    strings: np.ndarray[tuple[int, int], np.dtype[np.object_]]
    labels: np.ndarray[tuple[int], np.dtype[Any]]
    groups: dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]]
    weights: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, most: int) -> Iterator[Rows]:
        for at in range(0, max(1, len(self)), most):
            yield self.taken(slice(at, at + most))

    def sampled(self) -> Rows:
        return self

    def taken(self, rows: Any) -> Rows:
        """Rows taken: a slice, or int64 [M]."""
        groups = {name: values[rows] for name, values in self.groups.items()}
        weights = None if self.weights is None else self.weights[rows]
        return Rows(self.numbers[rows], self.strings[rows], self.labels[rows], groups, weights)


def classes(path: Path) -> tuple[str, ...]:
    """The target's classes as the training set lists them; empty for a regression."""
    metadata = pq.read_schema(path).metadata or {}
    return tuple(str(name) for name in json.loads(metadata.get(b"penstock", b"{}")).get("classes") or ())


def signature(pipeline: Pipeline, classes: tuple[str, ...]) -> ModelSignature:
    """Signature of the model: numbers in one tensor, all else in the other, each in the order of
    the pipeline file.

    `classes` names the columns of `probabilities`: binary, the negative class and then the positive
    one. A regression has none, gives `value` instead, with quantiles `interval` too, and decides
    nothing.
    """
    target = pipeline.target
    regression = target.type == "regression"
    types = {
        name: pipeline.field(feature.source_field).type
        for name, feature in pipeline.resolved_features().items()
    }
    return ModelSignature(
        inputs=Inputs(
            numbers=tuple(name for name, kind in types.items() if kind == "number"),
            strings=tuple(name for name, kind in types.items() if kind != "number"),
        ),
        outputs={
            "value": Output(datatype="FP32", columns=1),
            **({"interval": Output(datatype="FP32", columns=2)} if target.quantiles else {}),
        }
        if regression
        else {
            "probabilities": Output(datatype="FP32", columns=len(classes)),
            "decision": Output(datatype="BYTES", columns=1),
        },
        classes=() if regression else classes,
        target=TargetSignature(name=next(iter(pipeline.targets)), type=target.type),
    )


def read(path: Path, signature: ModelSignature, pipeline: Pipeline) -> Rows:
    """Reads one part of a training set. Raises Invalid where it lacks what the pipeline asks for."""
    with pq.ParquetFile(path) as file:  # `pq.read_table` would import pandas
        check_columns(file.schema_arrow.names, signature, path)
        table = file.read()
    groups = {
        name.removeprefix(GROUP): objects(table[name])
        for name in table.column_names
        if name.startswith(GROUP)
    }
    labels, weights = labels_of(table, path, pipeline), weights_of(table, path, pipeline)
    return Rows(*values_of(table, signature), labels, groups, weights)


def check_columns(names: Sequence[str], signature: ModelSignature, path: Path) -> None:
    """Raises Invalid where a column is not there."""
    wanted = [*signature.inputs.numbers, *signature.inputs.strings, LABEL]
    if absent := [name for name in wanted if name not in names]:
        raise Invalid(
            f"the training set has no column {', '.join(f'`{name}`' for name in absent)}",
            where=path.name,
            remedy="Create the training set again for this pipeline number",
        )


def values_of(table: pa.Table, signature: ModelSignature) -> tuple[Any, Any]:
    """`numbers` and `strings` of `Rows`."""
    inputs = signature.inputs
    numbers = np.empty((table.num_rows, len(inputs.numbers)), dtype=np.float64)
    for index, name in enumerate(inputs.numbers):
        numbers[:, index] = table[name].cast(pa.float64()).to_numpy()
    strings = np.empty((table.num_rows, len(inputs.strings)), dtype=object)
    for index, name in enumerate(inputs.strings):
        strings[:, index] = [text or "" for text in table[name].cast(pa.string()).to_pylist()]
    return numbers, strings


def objects(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Values as Python has them, equal ones shared, None where missing."""
    coded = column.combine_chunks().dictionary_encode()
    known = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    found: np.ndarray[tuple[int], np.dtype[np.object_]] = known[coded.indices.fill_null(-1).to_numpy()]
    return found


def labels_of(table: pa.Table, path: Path, pipeline: Pipeline) -> np.ndarray[tuple[int], np.dtype[Any]]:
    """`labels` of `Rows`. Raises Invalid where one is missing."""
    label = table[LABEL].combine_chunks()
    if label.null_count:
        raise Invalid(f"{label.null_count} of {table.num_rows} rows have no label", where=path.name)
    dtype = np.float64 if pipeline.target.type == "regression" else np.int64
    found: np.ndarray[tuple[int], np.dtype[Any]] = label.to_numpy(zero_copy_only=False).astype(dtype)
    return found


def weights_of(table: pa.Table, path: Path, pipeline: Pipeline) -> np.ndarray[tuple[int], Any] | None:
    """`weights` of `Rows`, scaled to a mean of 1: a family's other settings go on meaning what they mean
    without weights. Raises Invalid where one is none.
    """
    named = pipeline.training.sample_weight
    if named is None:
        return None
    if WEIGHT not in table.column_names:
        raise Invalid(f"the training set has no weights from `{named}`", where=path.name)
    weights: np.ndarray[tuple[int], Any] = table[WEIGHT].cast(pa.float64()).to_numpy().copy()
    wrong = int((~(np.isfinite(weights) & (weights >= 0))).sum())
    if wrong or not weights.sum():
        told = f"is missing or below 0 in {wrong} of {len(weights)} rows" if wrong else "is 0 in all rows"
        raise Invalid(
            f"`{named}` {told} of {path.name}",
            where="training.sample_weight",
            remedy="Declare the field `required` with a range from 0 up, or leave sample_weight out",
        )
    weights /= weights.mean()
    return weights


def group_of(value: Any, group: Group) -> str | None:
    """Name of the value's group, None where it is missing; a number's is its bin in `audit.groups`."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, float):
        return f"{bisect_right(group.bins or (), value):03d}"
    return group.name(str(value))
