"""A part of a training set that is too large to hold: raw values are read from its file as they are
needed. What there is of every row in memory are its label and its weight.

Whatever is learned of columns as a whole, quantiles, vocabularies, the profile, is learned of a seeded
sample. A quantile of n sampled rows is one of all rows whose rank differs by less than
√(ln(2/δ) / 2n) but with probability δ (A. Dvoretzky, J. Kiefer, J. Wolfowitz 1956, with the constant of
P. Massart 1990): of 200,000 rows by 0.36 % with δ = 0.01.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.pipeline import Pipeline
from penstock.modelkit.features import ALIGNED
from penstock.modelkit.rows import (
    GROUP,
    LABEL,
    WEIGHT,
    Rows,
    RowSource,
    check_columns,
    labels_of,
    objects,
    read,
    values_of,
    weights_of,
)
from penstock.packages.parts import ModelSignature

HELD = 64_000_000  # bytes of raw values that a part may have in memory
SAMPLE = 32_000_000  # bytes of the sample of a larger part
READ = 4_000_000  # bytes of them that are read at once
PAGE = 1 << 16  # bytes of each column that the file is read by
LARGE = 4_000_000  # bytes; a step's blocks are smaller
MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
NUMBER, TEXT = 8, 64  # bytes of a value; of a text about
SEED = 0  # of samples: how a run is trained does not change what it is trained on
DOUBT = 0.01  # probability


def opened(path: Path, signature: ModelSignature, pipeline: Pipeline, held: int | None = None) -> RowSource:
    """The part in memory, or, where it takes more than `held` bytes (HELD), in its file. Raises Invalid
    where it lacks what the pipeline asks for.
    """
    held = HELD if held is None else held
    if pq.read_metadata(path).num_rows * row_bytes(signature) <= held:
        return read(path, signature, pipeline)
    hold_little()
    return StoredRows(path, signature, pipeline)


def row_bytes(signature: ModelSignature) -> int:
    """Bytes of a row's raw values in memory, about."""
    return NUMBER * len(signature.inputs.numbers) + TEXT * len(signature.inputs.strings)


def rank_error(rows: int) -> float:
    """Largest difference in rank between a quantile of a sample of so many rows and that of all, but with
    probability DOUBT.
    """
    return math.sqrt(math.log(2 / DOUBT) / (2 * rows))


def hold_little() -> None:
    """Has large blocks be the system's again as soon as they are free, from now on in this process: else
    they come to lie between small ones that stay, and it is chance what is left of a limit.
    """
    with suppress(AttributeError):  # a C library of another kind
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Returns memory that is free to the system: allocators keep what rows took when they were read."""
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # a C library of another kind
        ctypes.CDLL(None).malloc_trim(0)


class StoredRows:
    """A `RowSource`."""

    def __init__(self, path: Path, signature: ModelSignature, pipeline: Pipeline) -> None:
        self._path, self._signature = path, signature
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_columns(names, signature, path)
            table = file.read(columns=[name for name in (LABEL, WEIGHT) if name in names])
        self._groups = [name for name in names if name.startswith(GROUP)]
        self.labels: np.ndarray[tuple[int], np.dtype[Any]] = labels_of(table, path, pipeline)
        self.weights = weights_of(table, path, pipeline)

    @property
    def groups(self) -> dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]]:
        with pq.ParquetFile(self._path) as file:
            table = file.read(columns=self._groups)
        return {name.removeprefix(GROUP): objects(table[name]) for name in self._groups}

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, most: int) -> Iterator[Rows]:
        """Without groups."""
        at = 0
        for batch in self._batches():
            rows = slice(at, at + batch.num_rows)
            weights = None if self.weights is None else self.weights[rows]
            yield from Rows(*values_of(batch, self._signature), self.labels[rows], {}, weights).chunks(most)
            at = rows.stop

    def sampled(self) -> Rows:
        """Without groups."""
        count = min(max(1, SAMPLE // row_bytes(self._signature)), len(self))
        chosen = np.random.default_rng(SEED).choice(len(self), count, replace=False)
        chosen.sort()
        weights = None if self.weights is None else self.weights[chosen]
        inputs, at = self._signature.inputs, 0
        numbers = np.empty((count, len(inputs.numbers)))
        strings = np.empty((count, len(inputs.strings)), dtype=object)
        for chunk in self.chunks(len(self)):
            first, end = np.searchsorted(chosen, (at, at + len(chunk)))
            numbers[first:end] = chunk.numbers[chosen[first:end] - at]
            strings[first:end] = chunk.strings[chosen[first:end] - at]
            at += len(chunk)
        return Rows(numbers, strings, self.labels[chosen], {}, weights)

    def _batches(self) -> Iterator[pa.Table]:
        inputs = self._signature.inputs
        size = max(64, READ // row_bytes(self._signature) // ALIGNED * ALIGNED)
        with pq.ParquetFile(self._path, pre_buffer=False, buffer_size=PAGE) as file:
            for batch in file.iter_batches(
                size, columns=[*inputs.numbers, *inputs.strings], use_threads=False
            ):
                yield pa.Table.from_batches([batch])
        give_back()
