"""Rows read from the lake's files, once each, and the footers that describe them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from penstock.contracts.errors import Invalid
from penstock_feature_store import names
from penstock_feature_store.lake.batches import conform
from penstock_feature_store.lake.files import Footer, LakeFile

log = structlog.get_logger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000

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
    present = pq.read_schema(path).names
    wanted = [name for name in schema.names if name in present]
    table = pq.read_table(path, columns=wanted, filters=keep)
    try:
        return conform(table, schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Invalid(
            f"a field changed its type and old values do not fit the new one: {error}", where=str(path)
        ) from error


def field(schema: pa.Schema, column: str) -> pa.Field:
    return schema.field(column) if column in schema.names else pa.field(column, pa.null())


def footer_of(path: Path) -> Footer:
    metadata = pq.read_metadata(path)
    columns = [metadata.schema.column(index).name for index in range(metadata.num_columns)]
    missing = dict.fromkeys(columns, 0)
    lows, highs, newest, ingested = [], [], [], []
    for group in (
        metadata.row_group(index) for index in range(metadata.num_row_groups if metadata.num_rows else 0)
    ):
        for index, column in enumerate(columns):
            statistics = group.column(index).statistics
            missing[column] += statistics.null_count
            if column == names.OFFSET and statistics.has_min_max:
                lows.append(statistics.min)
                highs.append(statistics.max)
            if column == names.TIME and statistics.has_min_max:
                newest.append(statistics.max)
            if column == names.INGESTED and statistics.has_min_max:
                ingested.append(statistics.min)
    rows = metadata.num_rows
    return Footer(
        rows=rows,
        present={column: rows - gone for column, gone in missing.items()},
        events=(min(lows), max(highs)) if lows else None,
        newest_us=us(max(newest)) if newest else None,
        oldest_ingested_us=us(min(ingested)) if ingested else None,
    )


def us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def settled(attempt: Callable[[], T]) -> T:
    """Again when a merge removed a file between listing and opening."""
    for _ in range(20):
        try:
            return attempt()
        except FileNotFoundError:
            continue
    return attempt()
