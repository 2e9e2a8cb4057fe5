"""Folds of a study's train and validation parts, for sets so small that one split says little."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.pipeline import Pipeline

ENTITY = "__entity"
SMALL = 20_000  # rows of both parts, below which the default is FOLDS
FOLDS = 5


def rows_of(*parts: Path) -> int:
    """Rows of training set parts together, from their footers."""
    return sum(pq.read_metadata(part).num_rows for part in parts)


def default_folds(pipeline: Pipeline, rows: int) -> int:
    """Number of folds where the file names none. A split by time has one: other folds would train on
    what came after the rows that they measure.
    """
    by_time = pipeline.split is not None and pipeline.split.by == "time"
    return FOLDS if rows < SMALL and not by_time else 1


def write_folds(train: Path, validation: Path, folds: int, folder: Path) -> None:
    """Divides the rows of both parts into so many folds; for each, a Parquet file of the others' rows
    and one of its own. All rows of an entity lie in one fold, and each fold has about its share of
    every label.
    """
    tables = [_read(part) for part in (train, validation)]
    table = pa.concat_tables(tables).replace_schema_metadata(tables[0].schema.metadata)
    fold = dealt(_entities(table), table["__label"].to_numpy(), folds)
    for number in range(folds):
        for path, chosen in zip(_files(folder, number), (fold != number, fold == number), strict=True):
            pq.write_table(table.filter(pa.array(chosen)), path)


def fold_files(folder: Path) -> list[tuple[Path, Path]]:
    """Files of each fold in that folder."""
    return [_files(folder, number) for number in range(len([*folder.glob("fold-*-train.parquet")]))]


def entities_of(parts: Sequence[Path]) -> list[str]:
    """Entity of each row of the parts, one after the other; each row its own where they name none."""
    return _entities(pa.concat_tables([_read(part, ["__label", ENTITY]) for part in parts]))


def _entities(table: pa.Table) -> list[str]:
    if ENTITY in table.column_names:
        return [str(entity) for entity in table[ENTITY].to_pylist()]
    return [str(row) for row in range(table.num_rows)]


def _files(folder: Path, fold: int) -> tuple[Path, Path]:
    return folder / f"fold-{fold}-train.parquet", folder / f"fold-{fold}-validation.parquet"


def _read(part: Path, columns: list[str] | None = None) -> pa.Table:
    with pq.ParquetFile(part) as file:  # `pq.read_table` would import pandas
        return file.read(columns=columns)


def dealt(
    entities: Sequence[str], labels: np.ndarray[tuple[int], np.dtype[np.float64]], hands: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Divides rows into so many hands, whole entities each: number of each row's hand. Entities in the
    order of their first row's label, and within that of their name's hash, are dealt out like cards.
    """
    names, first, row = np.unique(np.asarray(entities, dtype=object), return_index=True, return_inverse=True)
    hashes = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    order = sorted(range(len(names)), key=lambda at: (labels[first[at]], hashes[at]))
    hand = np.empty(len(names), np.int64)
    hand[order] = np.arange(len(names)) % hands
    return hand[row]
