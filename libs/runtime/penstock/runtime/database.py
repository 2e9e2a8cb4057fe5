"""A service's database by its URL, SQLite or PostgreSQL: how it is opened, and whether it is there.

Both have one writer at a time, and readers that see a snapshot and hold up nobody. What PostgreSQL
needs for that is in `postgresql.py`, imported, and its driver with it, where a URL asks for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError

from penstock.contracts.errors import Invalid, Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.readiness import Readiness

WRITER_WAITS_S = 30.0  # for another writer, here or in another process
TRY_EVERY_S = 1.0  # while it is away
READ_ONLY = "penstock_read_only"  # the execution option of a connection that reads a snapshot

T = TypeVar("T")


class DatabaseAway(Unavailable):
    """The service's own database does not answer, or has no room. It may be waited for as long as it
    takes: without it nothing else would go on.
    """


class Presence:
    """Presence of a database, as its last use told. Safe from any thread.

    While it does not, one use a second, or `Database.ping`, tries to connect; the others fail at
    once, so that nobody waits in a line. `name` is host:port/database, or a path, without user and
    password; `why` is the reason why the database is away, None while it is there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.why: str | None = None
        self._next_try = 0.0
        self._lock = threading.RLock()
        self._changed: list[Callable[[str | None], None]] = []

    def on_change(self, listener: Callable[[str | None], None]) -> None:
        """Calls `listener` with the reason when the database is lost, and with None when it is
        found, from the thread that noticed.

        It must not block.
        """
        self._changed.append(listener)

    def lost(self, why: str, *, again_in_s: float = TRY_EVERY_S) -> DatabaseAway:
        """Marks the database as unreachable and returns the error to raise."""
        self._next_try = time.monotonic() + again_in_s
        self._set(why)
        return self.error()

    def found(self) -> None:
        self._set(None)

    def try_at_once(self) -> None:
        self._next_try = 0.0

    def about_to_connect(self, within_s: float) -> None:
        """Raises DatabaseAway where it is too early to try again, or another use is trying."""
        with self._lock:
            if self.why is None:
                return
            if time.monotonic() < self._next_try:
                raise self.error()
            self._next_try = time.monotonic() + within_s

    def error(self) -> DatabaseAway:
        return DatabaseAway(
            self.why or "it does not answer",
            where=f"database ({self.name})",
            remedy="It is tried again by itself",
        )

    def _set(self, why: str | None) -> None:
        with self._lock:
            before, self.why = self.why, why
            if before != why:
                for listener in self._changed:  # in the lock: what they hear last is what is true
                    listener(why)


class Database:
    """A database. Connects at its first use; raises DatabaseAway, then and later, while it does
    not answer.
    """

    def __init__(self, url: str | URL) -> None:
        """Raises ValueError for an in-memory database, Invalid for one that is neither SQLite nor
        PostgreSQL.
        """
        parsed = checked(url)
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or ":memory:" in parsed.database:
                raise ValueError("an in-memory database is another one for each connection; give a file")
            self.presence = Presence(parsed.database)
            self.engine, self.snapshot = _sqlite(parsed, self.presence)
        else:
            from penstock.runtime import postgresql

            self.presence = Presence(f"{parsed.host}:{parsed.port or postgresql.PORT}/{parsed.database}")
            self.engine, self.snapshot = postgresql.connecting(parsed, self.presence)

    def ping(self) -> None:
        """Connects where no connection is at hand. Blocks for seconds at most; raises DatabaseAway."""
        self.presence.try_at_once()
        with self.engine.connect():
            self.presence.found()

    def close(self) -> None:
        self.engine.dispose()


async def watch(database: Database, readiness: Readiness) -> None:
    """Readiness follows the database until this is cancelled; while it is away, it is asked for here,
    also where nobody else uses it.
    """
    presence, loop, lost = database.presence, asyncio.get_running_loop(), asyncio.Event()
    thing = f"database ({presence.name})"

    def changed(why: str | None) -> None:
        if why is None:
            readiness.has(thing)
        else:
            readiness.waits_for(thing, why)
            loop.call_soon_threadsafe(lost.set)

    presence.on_change(changed)
    changed(presence.why)
    delay = Backoff(first=0.1, longest=TRY_EVERY_S)
    while True:
        await lost.wait()
        lost.clear()
        while presence.why is not None:
            try:
                await asyncio.to_thread(database.ping)
            except Unavailable as error:
                readiness.waits_for(thing, error.message)
                await asyncio.sleep(delay.next())
        delay.reset()


async def persistently(work: Callable[[], Awaitable[T]]) -> T:
    """Returns what `work` returns, which is called again for as long as the database is away."""
    while True:
        try:
            return await work()
        except DatabaseAway:
            await asyncio.sleep(TRY_EVERY_S)


def checked(url: str | URL, where: str | None = None) -> URL:
    """Raises Invalid, naming `where` it stands, for one that no service can use."""
    remedy = "Write postgresql+psycopg://user@host:5432/database or sqlite:///file"
    try:
        parsed = make_url(url)
        driver = parsed.get_backend_name(), parsed.get_driver_name()
    except ArgumentError as error:
        raise Invalid("this is no database URL", where=where, remedy=remedy) from error
    if driver not in (("sqlite", "pysqlite"), ("postgresql", "psycopg")):
        raise Invalid(f"no service can use {parsed.drivername}", where=where, remedy=remedy)
    return parsed


def with_password(url: str, file: Path | None, where: str) -> URL:
    """The URL with what `file` holds as its password. Raises Invalid, naming the file or `where` the
    URL stands; no message, and no `str` of what is returned, shows a password.
    """
    parsed = checked(url, where)
    if parsed.password is not None:
        remedy = "Put it into a file, and the file's path into DATABASE_PASSWORD_FILE of the same service"
        raise Invalid(
            "a password in a URL is seen by whoever may look at the process", where=where, remedy=remedy
        )
    if file is None or parsed.get_backend_name() == "sqlite":
        return parsed
    try:
        password = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"the password cannot be read: {error}", where=str(file)) from error
    if not password:
        raise Invalid("the password file is empty", where=str(file))
    return parsed.set(password=password)


def held_by_another(presence: Presence) -> Unavailable:
    """Returns the error of a writer that has waited for another one for as long as it may."""
    return Unavailable(
        f"another writer has held it for {WRITER_WAITS_S:.0f} s",
        where=f"database ({presence.name})",
        remedy="Try again",
    )


def full(presence: Presence) -> DatabaseAway:
    """Returns the error of a write for which the disk has no room: like an absence, it is waited for."""
    return DatabaseAway(
        "its disk is full",
        where=f"database ({presence.name})",
        remedy="Free some room; it is tried again by itself",
    )


def _sqlite(url: URL, presence: Presence) -> tuple[Engine, Mapping[str, Any]]:
    def translated(context: ExceptionContext) -> Exception | None:
        code = getattr(context.original_exception, "sqlite_errorcode", 0)  # the low byte: there are more
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return full(presence)
        return held_by_another(presence) if code & 0xFF == sqlite3.SQLITE_BUSY else None

    engine = create_engine(url, connect_args={"timeout": WRITER_WAITS_S, "check_same_thread": False})
    event.listen(engine, "connect", _sqlite_connected)
    event.listen(engine, "begin", _sqlite_begin)
    event.listen(engine, "handle_error", translated)
    return engine, {READ_ONLY: True}


def _sqlite_connected(dbapi_connection: Any, _record: object) -> None:
    # The driver must not begin by itself: _sqlite_begin says which kind.
    dbapi_connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if read_only else 'OFF'}")
    # A transaction that will write takes the lock first: one that upgrades later can fail where it
    # should have waited.
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
