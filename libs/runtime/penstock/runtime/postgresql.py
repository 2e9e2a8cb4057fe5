"""PostgreSQL as a service's database: one writer at a time, snapshots, and errors that say whether
it is there.

A transaction that may write takes one advisory lock of the database before anything else, and
PostgreSQL gives it back after the commit can be seen. So transactions follow one another as on
SQLite, from any number of replicas: what one has read stays true until it commits, the outbox's ids
rise in the order of the commits, and replicas that start together migrate one after the other.
Readers take no lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext

from penstock.contracts.errors import Invalid, Unavailable
from penstock.runtime.database import (
    READ_ONLY,
    WRITER_WAITS_S,
    DatabaseAway,
    Presence,
    full,
    held_by_another,
)

PORT = 5432
CONNECT_WITHIN_S = 3
# After this time a connection counts as lost whose other end neither acknowledges nor answers; in a
# transaction that writes, later: it may wait for another writer, or for a disk.
SILENT_S = 10
WRITER_ANSWERS_WITHIN_S = WRITER_WAITS_S + SILENT_S
STANDS_STILL_S = 20  # a replica loses its transaction before those who wait for the lock give up
POOL, MORE = 5, 35  # connections kept, and at most: more than asyncio has threads for blocking work
T = TypeVar("T")

_ONE_WRITER = int.from_bytes(b"penstock")  # the lock's key: any number that nobody else here takes
_SESSION = {
    "lock_timeout": f"{WRITER_WAITS_S:.0f}s",
    "idle_in_transaction_session_timeout": f"{STANDS_STILL_S}s",
    "timezone": "UTC",
    "application_name": "penstock",
}
_CONNECTION = {
    "connect_timeout": CONNECT_WITHIN_S,
    "tcp_user_timeout": SILENT_S * 1000,
    "keepalives_idle": SILENT_S // 2,
    "keepalives_interval": 1,
    "keepalives_count": SILENT_S // 2,
    "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
}


def connecting(url: URL, presence: Presence) -> tuple[Engine, Mapping[str, Any]]:
    """The engine, and the execution options of a connection that reads a snapshot."""
    engine = create_engine(
        url,
        connect_args=_CONNECTION,
        pool_pre_ping=True,
        pool_size=POOL,
        max_overflow=MORE,
        hide_parameters=True,
        use_native_hstore=False,
    )

    def connect(_dialect: object, _record: object, arguments: list[Any], named: dict[str, Any]) -> Any:
        presence.about_to_connect(CONNECT_WITHIN_S)
        return _BoundedConnection.connect(*arguments, **named)

    listeners: dict[str, Callable[..., Any]] = {
        "do_connect": connect,
        "connect": lambda *_: presence.found(),
        "begin": _begin,
        "checkin": _ended,
        "handle_error": partial(_translated, presence),
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    return engine, {READ_ONLY: True, "postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}


class _BoundedConnection(psycopg.Connection[Any]):
    """Counts as lost when an answer takes too long. A server that stands still says nothing, and
    its kernel acknowledges all the same that it was asked: no setting of TCP or of the server
    notices that.
    """

    answers_within_s = SILENT_S

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        deadline = time.monotonic() + (within := self.answers_within_s)
        try:
            return super().wait(gen, interval, within)
        except psycopg.OperationalError as error:
            if time.monotonic() < deadline:
                raise
            self.pgconn.finish()  # a late answer would be taken for the next one's
            raise psycopg.OperationalError(f"it has not answered for {within:.0f} s") from error


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READ_ONLY, False)
    bounded = connection.connection.dbapi_connection
    assert isinstance(bounded, _BoundedConnection)
    bounded.answers_within_s = SILENT_S if reads else WRITER_ANSWERS_WITHIN_S
    # Read committed from here on: the first statement after the lock sees what its last holder has committed.
    if not reads:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")


def _ended(connection: _BoundedConnection | None, _record: object) -> None:
    if connection is not None:
        connection.answers_within_s = SILENT_S


def _translated(presence: Presence, context: ExceptionContext) -> Exception | None:
    """The driver's errors by what becomes of them: waited for, tried again, refused. None leaves
    the error as it is.
    """
    error = context.original_exception
    if context.is_pre_ping or not isinstance(error, psycopg.Error):
        return None
    if context.is_disconnect:
        return presence.lost(_said(error), again_in_s=0.0)
    if context.connection is None:
        return presence.lost(_said(error))
    where = f"database ({presence.name})"
    if isinstance(
        error, psycopg.errors.ReadOnlySqlTransaction
    ) and not context.connection.get_execution_options().get(READ_ONLY, False):
        context.is_disconnect = True  # the session stays read-only, whatever becomes of the server
        return DatabaseAway(
            "it takes no writes: it is a standby, or was told to be read-only",
            where=where,
            remedy="It is tried again by itself",
        )
    if isinstance(error, psycopg.errors.DiskFull):
        return full(presence)
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return held_by_another(presence)
    if isinstance(error, psycopg.OperationalError):
        return Unavailable(_said(error), where=where, remedy="Try again")
    if isinstance(error, psycopg.DataError):
        return Invalid(f"a value cannot be stored: {_said(error)}", where=where)
    return None


def _said(error: psycopg.Error) -> str:
    """`Connection refused`, `password authentication failed for user "penstock"`: the reason,
    without where and the guesses after it.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = next((line for line in lines if " failed: " in line), lines[0])
    return told.rsplit(" failed: ", 1)[-1].removeprefix("FATAL:").strip()
