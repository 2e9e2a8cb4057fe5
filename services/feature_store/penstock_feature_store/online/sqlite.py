"""The online store in SQLite: a file in each pipeline's repository, which the process that owns the
lake reads and writes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import structlog

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock_feature_store import names
from penstock_feature_store.online.definitions import KEY_VERSION, SQLITE
from penstock_feature_store.online.feast_import import serialize_entity_key
from penstock_feature_store.online.stores import (
    OnlineStore,
    OnlineStores,
    key_of,
    serialized_key,
)

log = structlog.get_logger(__name__)

BUSY_S = 30.0
READ_S = 1.0  # a reader waits while the file is set up; no writer holds it up
_POSITIONS = (
    "CREATE TABLE IF NOT EXISTS penstock_positions (source TEXT, part INTEGER, next INTEGER, PRIMARY KEY"
    " (source, part))"
)


class SqliteOnlineStore(OnlineStore):
    """A connection of Feast's, whose calls take turns, and one that only reads: the file's log lets it
    go on while rows are written. Rows and positions lie in one file, so that they are lost together.
    """

    at_hand = True

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        super().__init__(folder, pipeline, SQLITE)
        self._path = _path(folder)
        self._project = names.project_of(pipeline.pipeline)
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None

    def close(self) -> None:
        with self._reading:
            if self._reader is not None:
                self._reader.close()
            self._reader = None
        with self._lock:
            connection, self._provider.online_store._conn = self._provider.online_store._conn, None
            if connection is not None:
                connection.close()

    def positions(self, source: str) -> dict[int, int]:
        with _positions(self._path) as connection:
            return dict(
                connection.execute("SELECT part, next FROM penstock_positions WHERE source = ?", (source,))
            )

    def save(self, source: str, positions: Mapping[int, int]) -> None:
        with _positions(self._path) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO penstock_positions VALUES (?, ?, ?)",
                [(source, part, at) for part, at in positions.items()],
            )

    def erase(self, sources: Collection[str], entity: str) -> bool:
        """Also the free pages and the log that held the rows or older ones. Raises Unavailable
        where a reader keeps the old pages.
        """
        if not self._path.exists():
            return False
        key = serialize_entity_key(key_of(entity), entity_key_serialization_version=KEY_VERSION)
        removed = self._delete(sources, "entity_key = ?", key)
        with closing(sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable("the online store is being read", where=str(self._path), remedy="Try again")
        return removed > 0

    def expire(self, source: str, before: datetime) -> int:
        return self._delete([source], "created_ts < ?", int(before.timestamp())) if self._path.exists() else 0

    def clear(self) -> None:
        """The file lies in the repository's folder, and goes with it."""

    def _delete(self, sources: Collection[str], where: str, value: bytes | int) -> int:
        tables = {f"{self._project}_{names.view_of(source)}" for source in sources}
        with closing(sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            present = {
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            return sum(
                connection.execute(f'DELETE FROM "{table}" WHERE {where}', (value,)).rowcount  # noqa: S608  both names are ours
                for table in present & tables
            )

    def _packed(self, source: str, entities: Sequence[str]) -> Sequence[tuple[bytes | None, bytes | None]]:
        keys = list(map(serialized_key, entities))
        with self._reading:
            if self._reader is None:
                address = f"{self._path.resolve().as_uri()}?mode=ro"
                self._reader = sqlite3.connect(
                    address, uri=True, timeout=READ_S, isolation_level=None, check_same_thread=False
                )
            statement = _packed_rows(self._project, source, len(keys))
            rows = self._reader.execute(statement, (names.ROW, names.ORIGIN, *keys)).fetchall()
        held = {key: (origin, packed) for key, origin, packed in rows}
        return [held.get(key, (None, None)) for key in keys]

    def _turn(self) -> AbstractContextManager[object]:
        return self._lock


class SqliteOnlineStores(OnlineStores):
    section = SQLITE
    shared = False

    def open(self, folder: Path, pipeline: Pipeline) -> SqliteOnlineStore:
        return SqliteOnlineStore(folder, pipeline)

    def lost(self, folder: Path) -> bool:
        path = _path(folder)
        if not path.exists():
            return True
        try:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            log.warning("online_store_broken", path=str(path), error=str(error))
            remove(folder)
            return True
        return False

    def applied(self, folder: Path, gone: Collection[str]) -> None:
        """Feast dropped the tables of views that are gone: should one come back, it is filled from
        the start.
        """
        with _positions(_path(folder)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            known = connection.execute("SELECT DISTINCT source FROM penstock_positions").fetchall()
            dropped = [(source,) for (source,) in known if names.view_of(source) in gone]
            connection.executemany("DELETE FROM penstock_positions WHERE source = ?", dropped)

    def check(self) -> None:
        """A file is always there."""

    def close(self) -> None:
        """Closes this store's own connection."""


@lru_cache(maxsize=256)
def _packed_rows(project: str, source: str, count: int) -> str:
    """Statement for so many entities' `__origin` and `__row`."""
    table = f'"{project}_{names.view_of(source)}"'
    return (
        f"SELECT origin.entity_key, origin.value, packed.value FROM {table} origin"  # noqa: S608  ours
        f" LEFT JOIN {table} packed ON packed.entity_key = origin.entity_key AND packed.feature_name = ?"
        f" WHERE origin.feature_name = ? AND origin.entity_key IN ({', '.join('?' * count)})"
    )


def remove(folder: Path) -> None:
    """The file, and the rows of persons in it."""
    for path in folder.glob(f"{SQLITE['path']}*"):
        path.unlink()


def _path(folder: Path) -> Path:
    return folder / str(SQLITE["path"])


@contextmanager
def _positions(path: Path) -> Iterator[sqlite3.Connection]:
    """Reads in one transaction."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
        connection.execute(_POSITIONS)
        with connection:
            yield connection
