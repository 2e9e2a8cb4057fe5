"""A part of a training set in memory: raw feature values, labels, groups."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.packages.parts import ModelSignature

Numbers = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Strings = np.ndarray[tuple[int, int], np.dtype[np.object_]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Raw values as the model's own inputs take them, in the signature's field order.

    numbers: float64 [N, n], missing is NaN. strings: object [N, m] of str, missing is "". labels:
    float64 [N] (regression) or int64 [N] (index into the signature's classes). groups: by field,
    object [N] of str, float or None.
    """

    numbers: Numbers
    strings: Strings
    labels: np.ndarray[tuple[int], np.dtype[Any]]
    groups: dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]]

    def __len__(self) -> int:
        return len(self.labels)


def classes(path: Path) -> tuple[str, ...]:
    """The target's classes as the training set lists them; empty for a regression."""
    metadata = pq.read_schema(path).metadata or {}
    return tuple(str(name) for name in json.loads(metadata.get(b"penstock", b"{}")).get("classes") or ())


def read(path: Path, signature: ModelSignature, pipeline: Pipeline) -> Rows:
    """Reads one part of a training set. Raises Invalid where it lacks what the pipeline asks for."""
    with pq.ParquetFile(path) as file:  # `pq.read_table` would import pandas
        table = file.read()
    wanted = [*signature.inputs.numbers, *signature.inputs.strings, "__label"]
    if absent := [name for name in wanted if name not in table.column_names]:
        raise Invalid(
            f"the training set has no column {', '.join(f'`{name}`' for name in absent)}",
            where=path.name,
            remedy="Create the training set again for this pipeline number",
        )
    count = table.num_rows
    numbers = np.empty((count, len(signature.inputs.numbers)), dtype=np.float64)
    for index, name in enumerate(signature.inputs.numbers):
        numbers[:, index] = _floats(table[name])
    strings = np.empty((count, len(signature.inputs.strings)), dtype=object)
    for index, name in enumerate(signature.inputs.strings):
        strings[:, index] = _texts(table[name])
    groups = {
        name.removeprefix("__group_"): np.array(table[name].to_pylist(), dtype=object)
        for name in table.column_names
        if name.startswith("__group_")
    }
    label = table["__label"].combine_chunks()
    if label.null_count:
        raise Invalid(f"{label.null_count} of {count} rows have no label", where=path.name)
    dtype = np.float64 if pipeline.target.type == "regression" else np.int64
    return Rows(numbers, strings, label.to_numpy(zero_copy_only=False).astype(dtype), groups)


def _floats(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values: np.ndarray[tuple[int], np.dtype[np.float64]] = column.cast(pa.float64()).to_numpy()
    return values


def _texts(column: pa.ChunkedArray) -> list[str]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string())
    return ["" if value is None else str(value) for value in column.to_pylist()]
