"""The online store: each entity's newest row of each source, through Feast's provider.

Three things Feast does not do are done here. The newest event time wins, then the highest offset, however late an event arrives. A row
older than `training.max_age` is expired. A missing value is missing, not a row that is not there.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names
from penstock_feature_store.batches import META
from penstock_feature_store.feast_import import EntityKey, Value, serialize_entity_key
from penstock_feature_store.repository import KEY_VERSION, Repository

BATCH = 500
"""Rows in one write to Feast; it does a statement per value."""

_POSITIONS = "CREATE TABLE IF NOT EXISTS penstock_positions (source TEXT, part INTEGER, next INTEGER, PRIMARY KEY (source, part))"

BUSY_S = 30.0

Scalar = float | str | bool | None


class Origin(NamedTuple):
    """The event behind a row. Compares as rows replace one another."""

    time_us: int
    offset: int
    partition: int
    event_id: str

    def __str__(self) -> str:
        return f"{self.time_us} {self.offset} {self.partition} {self.event_id}"

    @classmethod
    def read(cls, text: str) -> Origin:
        time_us, offset, partition, event_id = text.split(" ", 3)
        return cls(int(time_us), int(offset), int(partition), event_id)

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.time_us)


class Row(NamedTuple):
    status: Literal["found", "not_found", "expired"]
    origin: Origin | None
    values: Mapping[str, Scalar]
    """By field; missing ones are None."""


class OnlineStore:
    """One connection to one pipeline's online store. Blocking; calls take turns."""

    def __init__(self, repository: Repository, pipeline: Pipeline) -> None:
        """`repository`: applied for this pipeline. After it changes, close this store and make another."""
        self._views = dict(repository.views)
        self._max_age = pipeline.training.max_age
        self._lock = threading.Lock()
        self._store = repository.open_store(pipeline.pipeline)
        self._provider = self._store._get_provider()

    def close(self) -> None:
        with self._lock:
            connection, self._provider.online_store._conn = self._provider.online_store._conn, None
            if connection is not None:
                connection.close()

    def write(self, source: str, table: pa.Table) -> int:
        """Rows of the lake, in any order, also again; returns how many entities changed."""
        view = self._views[source]
        known = {feature.name for feature in view.features} - {names.ORIGIN, names.AT}
        columns = [name for name in table.column_names if name not in META.names]  # also a field that no pipeline told us of yet
        absent = [name for name in known if name not in columns]
        changed = 0
        with self._lock:
            newest = list(coalesce(table).items())
            for start in range(0, len(newest), BATCH):
                changed += self._write(view, table, columns, absent, newest[start : start + BATCH])
        return changed

    def _write(
        self, view: Any, table: pa.Table, columns: Sequence[str], absent: Sequence[str], newest: Sequence[tuple[str, tuple[Origin, int]]]
    ) -> int:
        held = self._origins(view, [entity for entity, _ in newest])
        wins = [(entity, origin, row) for (entity, (origin, row)), old in zip(newest, held, strict=True) if old is None or origin > old]
        taken = table.select(columns).take(pa.array([row for *_, row in wins], pa.int64()))
        values = {column: _protos(taken.column(column).to_pylist()) for column in columns}
        missing = {column: Value() for column in absent}
        ingested = table.column(names.INGESTED).to_pylist()
        rows = [
            (
                _key(entity),
                {column: values[column][index] for column in columns} | missing | {names.ORIGIN: Value(string_val=str(origin))},
                origin.time,
                ingested[row],
            )
            for index, (entity, origin, row) in enumerate(wins)
        ]
        if rows:
            self._provider.online_write_batch(self._store.config, view, rows, None)
        return len(rows)

    def _origins(self, view: Any, entities: Sequence[str]) -> list[Origin | None]:
        found = self._provider.online_read(self._store.config, view, [_key(entity) for entity in entities], [names.ORIGIN])
        return [Origin.read(values[names.ORIGIN].string_val) if values and names.ORIGIN in values else None for _, values in found]

    def read(self, source: str, entities: Sequence[str], fields: Sequence[str], now: datetime) -> list[Row]:
        """One row an entity, in order."""
        view = self._views[source]
        columns = [names.column_of(field) for field in fields]
        with self._lock:
            found = self._provider.online_read(
                self._store.config, view, [_key(entity) for entity in entities], list(dict.fromkeys([*columns, names.ORIGIN]))
            )
        return [_row(values, fields, columns, self._max_age, now) for _, values in found]


class Positions:
    """How far the lake has been written online: beside the rows, so that a store made anew is filled from the start."""

    def __init__(self, repository: Repository) -> None:
        self._path = repository.online
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(_POSITIONS)

    def read(self, source: str) -> dict[int, int]:
        with closing(sqlite3.connect(self._path)) as connection:
            return dict(connection.execute("SELECT part, next FROM penstock_positions WHERE source = ?", (source,)))

    def save(self, source: str, positions: Mapping[int, int]) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO penstock_positions VALUES (?, ?, ?)", [(source, part, at) for part, at in positions.items()]
            )


def coalesce(table: pa.Table) -> dict[str, tuple[Origin, int]]:
    """The newest row of each entity: its origin and its place in the table."""
    newest: dict[str, tuple[Origin, int]] = {}
    origins = zip(
        table.column(names.TIME).cast(pa.int64()).to_pylist(),
        table.column(names.OFFSET).to_pylist(),
        table.column(names.PARTITION).to_pylist(),
        table.column(names.ID).to_pylist(),
        strict=True,
    )
    for row, (entity, origin) in enumerate(zip(table.column(names.ENTITY).to_pylist(), map(Origin._make, origins), strict=True)):
        known = newest.get(entity)
        if known is None or origin > known[0]:
            newest[entity] = (origin, row)
    return newest


def erase(path: Path, tables: Iterable[str], entity: str) -> bool:
    """Removes the entity's rows, and the free pages and log that held them or older ones. True when there were any.

    Raises Unavailable where a reader does not let go of the old pages.
    """
    key = serialize_entity_key(_key(entity), entity_key_serialization_version=KEY_VERSION)
    removed = _delete(path, tables, "entity_key = ?", key)
    if path.exists():
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable("the online store is being read", where=str(path), remedy="Try again")
    return removed > 0


def expire(path: Path, tables: Iterable[str], before: datetime) -> int:
    """Removes values that ingest published before this moment; returns how many."""
    return _delete(path, tables, "created_ts < ?", int(before.timestamp()))


def _delete(path: Path, tables: Iterable[str], where: str, value: bytes | int) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return sum(
            connection.execute(f'DELETE FROM "{table}" WHERE {where}', (value,)).rowcount  # noqa: S608  both names are ours
            for table in present.intersection(tables)
        )


def table_of(pipeline: str, source: str) -> str:
    """Feast's table of a source's feature view."""
    return f"{names.project_of(pipeline)}_{names.view_of(source)}"


def _row(values: Mapping[str, Any] | None, fields: Sequence[str], columns: Sequence[str], max_age: timedelta, now: datetime) -> Row:
    if not values or names.ORIGIN not in values:
        return Row("not_found", None, {})
    origin = Origin.read(values[names.ORIGIN].string_val)
    if now - origin.time > max_age:
        return Row("expired", origin, {})
    return Row("found", origin, {field: _scalar(values.get(column)) for field, column in zip(fields, columns, strict=True)})


def _key(entity: str) -> Any:
    return EntityKey(join_keys=[names.ENTITY], entity_values=[Value(string_val=entity)])


def _protos(values: Sequence[Scalar]) -> list[Any]:
    """A category has few values: each is made once."""
    made: dict[Scalar, Any] = {}
    return [_proto(value) if isinstance(value, float) else made.get(value) or made.setdefault(value, _proto(value)) for value in values]


def _proto(value: Scalar) -> Any:
    match value:
        case None:
            return Value()
        case bool():
            return Value(bool_val=value)
        case str():
            return Value(string_val=value)
        case _:
            return Value(double_val=value)


def _scalar(value: Any) -> Scalar:
    kind = value.WhichOneof("val") if value is not None else None
    found: Scalar = None if kind in (None, "null_val") else getattr(value, kind)
    return found
