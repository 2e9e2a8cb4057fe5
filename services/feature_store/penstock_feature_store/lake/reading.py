"""Rows read from the lake's files, once each, and the footers that describe them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from penstock_feature_store import names
from penstock_feature_store.lake.batches import conform
from penstock_feature_store.lake.files import Footer, LakeFile

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def once(table: pa.Table) -> pa.Table:
    """The first of each (event partition, event offset), in the same order."""
    keys = table.select([names.PARTITION, names.OFFSET]).append_column(
        "row", pa.array(range(table.num_rows), pa.int64())
    )
    grouped = keys.group_by([names.PARTITION, names.OFFSET]).aggregate([("row", "min")])
    if grouped.num_rows == table.num_rows:
        return table
    log.warning("repeated_records", rows=table.num_rows - grouped.num_rows)
    rows = grouped.column("row_min")
    return table.take(rows.take(pc.sort_indices(rows)))


def apart(files: Sequence[tuple[LakeFile, Footer]]) -> bool:
    """No event can be in two of these files."""
    highest: dict[int, int] = {}
    for file, footer in files:
        if footer.events:
            if footer.events[0] <= highest.get(file.partition, -1):
                return False
            highest[file.partition] = footer.events[1]
    return True


def read_rows(path: Path, schema: pa.Schema, keep: pc.Expression | None = None) -> pa.Table:
    wanted = [name for name in pq.read_schema(path).names if name in schema.names]
    table = pq.read_table(path, columns=wanted, filters=keep)
    try:
        return conform(table, schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        log.warning("values_of_another_type", file=str(path), read_as="missing")
        columns = [_fitting(table.column(name), schema.field(name).type) for name in wanted]
        return conform(pa.Table.from_arrays(columns, names=wanted), schema)


def _fitting(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """Values as `kind`; missing where they are none of it: one row must not hide the others."""
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.concat_arrays([_or_missing(value, kind) for value in column])


def _or_missing(value: pa.Scalar, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([value.cast(kind).as_py()], kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.nulls(1, kind)


def values_in(table: pa.Table, column: str) -> int:
    return int(table.num_rows - table.column(column).null_count)


def count_in(folder: Path, file: LakeFile, footer: Footer, column: str, since: int) -> int:
    """Rows of a file with a value in `column`, at records offsets not below `since`."""
    if since >= file.next or column not in footer.present:
        return 0
    return footer.present[column] if since <= file.first else _count_from(folder / file.name, column, since)


@lru_cache(64)
def _count_from(path: Path, column: str, since: int) -> int:
    # Kept, for no other bytes ever get the file's name.
    return values_in(pq.read_table(path, columns=[column], filters=pc.field(names.RECORD) >= since), column)


def footer_of(path: Path) -> Footer:
    metadata = pq.read_metadata(path)
    rows = metadata.num_rows
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    statistics = {
        metadata.schema.column(index).name: [
            group.column(index).statistics for group in groups if group.num_rows
        ]
        for index in range(metadata.num_columns)
    }

    def bounds(column: str) -> tuple[Any, Any] | None:
        known = [group for group in statistics[column] if group.has_min_max]
        return (min(group.min for group in known), max(group.max for group in known)) if known else None

    times, ingested = bounds(names.TIME), bounds(names.INGESTED)
    return Footer(
        rows=rows,
        present={
            column: rows - sum(group.null_count for group in found) for column, found in statistics.items()
        },
        events=bounds(names.OFFSET),
        newest=times[1] if times else None,
        oldest_ingested=ingested[0] if ingested else None,
    )


def settled(method: Callable[P, T]) -> Callable[P, T]:
    """Calls again when a merge removed a file between listing and opening."""

    @wraps(method)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        for _ in range(20):
            with suppress(FileNotFoundError):
                return method(*arguments, **named)
        return method(*arguments, **named)

    return call
