"""Parts of a training set as files: rows go to their part as they come, so that no more than a
batch is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock_feature_store import names
from penstock_feature_store.training.splits import PARTS, Parts

PAGE = 1 << 16  # bytes; who reads rows in turn holds a page of each column, twice


class Part:
    """A part: its file, its rows, and how many values of each column are missing."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.num_rows = 0
        self.missing: Counter[str] = Counter()
        self._writer = writer_of(path, schema)

    def add(self, rows: pa.Table) -> None:
        self.num_rows += rows.num_rows
        self.missing.update({name: rows.column(name).null_count for name in rows.column_names})
        if rows.num_rows:
            self._writer.write_table(rows)

    def close(self) -> None:
        self._writer.close()

    def column(self, name: str) -> pa.ChunkedArray:
        """Reads one column from the file."""
        with pq.ParquetFile(self.path) as file:  # `pq.read_table` would import pandas, for half a second
            return file.read(columns=[name]).column(name)


def writer_of(to: Path | pa.NativeFile, schema: pa.Schema) -> pq.ParquetWriter:
    """Opens a part's file for its rows; each table that is written is a row group."""
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return pq.ParquetWriter(
        to,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=texts,
        data_page_size=PAGE,
    )


def without(data: bytes, entity: str) -> tuple[bytes, int]:
    """The part's file, written again without the rows of the entity, and how many these are."""
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        gone = pc.sum(pc.equal(file.read(columns=[names.ENTITY]).column(names.ENTITY), entity)).as_py() or 0
        if not gone:
            return data, 0
        sink = pa.BufferOutputStream()
        with writer_of(sink, file.schema_arrow) as writer:
            for number in range(file.num_row_groups):
                group = file.read_row_group(number)
                kept = group.filter(pc.not_equal(group.column(names.ENTITY), entity))
                if kept.num_rows:
                    writer.write_table(kept)
    return sink.getvalue().to_pybytes(), gone


def write(tables: Iterable[pa.Table], parts: Parts, schema: pa.Schema, folder: Path) -> Mapping[str, Part]:
    """Writes each row to the file of its part. `parts` [N]: the parts of all rows, in the order in which
    `tables` bring them. The next table is made while one is written.
    """
    written = {name: Part(folder / f"{name}.out", schema) for name in PARTS}

    def add(number: int, table: pa.Table, assigned: Parts) -> None:
        rows = np.flatnonzero(assigned == number)  # a filter by the mask takes twice as long
        written[PARTS[number]].add(table.take(pa.array(rows)))

    start, under_way = 0, list[Future[None]]()
    with ThreadPoolExecutor(max_workers=len(PARTS)) as writing:
        try:
            for table in tables:
                for each in under_way:
                    each.result()
                assigned = parts[start : start + table.num_rows]
                under_way = [writing.submit(add, number, table, assigned) for number in range(len(PARTS))]
                start += table.num_rows
            for each in under_way:
                each.result()
        finally:
            writing.shutdown()
            for part in written.values():
                part.close()
    return written
