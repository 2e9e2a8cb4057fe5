"""A service's database: one transaction holds the inbox row, the effect and the events that follow from it.

Synchronous SQLAlchemy over SQLite or PostgreSQL (`database.py`), in threads of the store's own: the
event loop never waits for a disk, another writer's lock or a lost server. What is committed is
durable; the rest is gone, its events too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Self, TypeVar

from alembic.migration import MigrationContext
from sqlalchemy import URL, MetaData, inspect
from sqlalchemy.orm import Session

from penstock.contracts.errors import Unavailable
from penstock.runtime import migrate
from penstock.runtime.database import Database
from penstock.runtime.effect import Effect, Wish, Write
from penstock.runtime.tables import RuntimeTables, UtcDateTime

__all__ = ["Effect", "Store", "UtcDateTime", "Wish", "Write", "assert_migrations_match"]

RUNTIME_MIGRATIONS = "penstock.runtime.migrations"
RUNTIME_VERSIONS = "penstock_runtime_version"
READERS = 4  # threads: readers wait for nobody, but a lost server makes each wait for some seconds
CALLERS = 500  # calls that wait for the writer, and as many for the readers, some kilobytes each

T = TypeVar("T")
C = TypeVar("C")


class Store:
    """A database, shared by the threads of one process."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self.database = database
        self.engine = database.engine
        self.clock = clock
        self._listeners: list[Callable[[Wish], None]] = []
        self._writer = BoundedExecutor("database writer", threads=1)
        self._readers = BoundedExecutor("database readers", threads=READERS)
        self._thread = threading.local()
        database.presence.on_change(self._found)

    @classmethod
    def open(
        cls,
        url: str | URL,
        metadata: MetaData | None = None,
        *,
        migrations: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Self:
        """Opens and migrates: the runtime's tables first, then the package `migrations`. Blocks for
        the migration.

        Without `migrations` (a test), `metadata`'s tables are created as they stand. Raises
        Conflict for a newer release's database, DatabaseAway where it does not answer.
        """
        database = Database(url)
        try:
            migrate.upgrade(database.engine, RUNTIME_MIGRATIONS, version_table=RUNTIME_VERSIONS)
            if migrations is not None:
                migrate.upgrade(database.engine, migrations)
            elif metadata is not None:
                metadata.create_all(database.engine)
        except BaseException:
            database.close()
            raise
        return cls(database, clock)

    # -- on the event loop -------------------------------------------------------------------------

    async def write(self, work: Callable[[Effect], T]) -> T:
        """Runs `work` on the writer's thread as one transaction; durable when it returns, undone
        where `work` raises. Transactions follow one another in the order of the calls.

        Waits up to 30 s for a writer in another process. Raises Unavailable where that holds on, or
        too many wait here. When the caller is cancelled, a transaction that has begun is
        committed all the same, with all that follows a commit; one that has not never begins.
        """
        return await self._writer.run(lambda: _within(self.transaction(), work))

    async def apply(self, group: str, event_id: str, work: Write) -> bool:
        """Writes what follows from an event, once, with its inbox row. False where the group has
        applied it before, in this replica or another.
        """

        def once(effect: Effect) -> bool:
            if new := effect.receive(group, event_id):
                work(effect)
            return new

        return await self.write(once)

    async def read(self, query: Callable[[Session], T]) -> T:
        """Returns what `query` makes of a snapshot, in a reader's thread. Waits for no writer."""
        return await self._readers.run(lambda: _within(self.snapshot(), query))

    # -- in a thread -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Effect]:
        """A transaction in the thread of the caller: rolled back when the block raises,
        committed, and durable, when it ends. Waits up to 30 s for another writer.

        Raises RuntimeError on an event loop's thread, and inside another transaction.
        """
        _refuse_on_an_event_loop("transaction()", "write(work)")
        if getattr(self._thread, "writes", False):
            raise RuntimeError("a transaction is open already in this thread; do not nest")
        self._thread.writes = True
        try:
            with Session(self.engine, expire_on_commit=False) as session:
                session.connection()  # takes the lock: what is read from here on stays true
                effect = Effect(session, self.clock)
                yield effect
                session.commit()
        finally:
            self._thread.writes = False
        effect.tell(self._tell)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A snapshot in the thread of the caller. A write in it is refused by the database. Raises
        RuntimeError on an event loop's thread.
        """
        _refuse_on_an_event_loop("snapshot()", "read(query)")
        connection = self.engine.connect().execution_options(**self.database.snapshot)
        with connection, Session(connection, expire_on_commit=False, autoflush=False) as session:
            yield session

    def on_commit(self, listener: Callable[[Wish], None]) -> None:
        """Calls `listener` after each commit that left work, from the committing thread. It must
        not block or raise.
        """
        self._listeners.append(listener)

    def close(self) -> None:
        """Blocks until what was asked for is done."""
        self._writer.close()
        self._readers.close()
        self.database.close()

    def _tell(self, wish: Wish) -> None:
        for listener in self._listeners:
            listener(wish)

    def _found(self, away: str | None) -> None:
        """The database is back: relay and workers need not wait until they look again by themselves."""
        if away is None:
            self._tell("publish")
            self._tell("enqueue")


class BoundedExecutor:
    """Threads that do blocking work for the event loop, for a bounded number of callers: those whose
    work is under way are among them. Work begins in the order of the calls; with one thread, it also
    ends in that order.
    """

    def __init__(self, name: str, *, threads: int) -> None:
        self._name = name
        self._places = threading.BoundedSemaphore(CALLERS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name.replace(" ", "-"))

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns, which runs in a thread and in the caller's context.

        When the caller is cancelled, work that has not begun never begins, and work that has begun
        goes on to its end. Raises Unavailable when too many callers wait, or after `close`.
        """
        if not self._places.acquire(blocking=False):
            raise Unavailable(
                f"{CALLERS} calls wait for it already", where=self._name, remedy="Try again later"
            )
        try:
            future = self._pool.submit(contextvars.copy_context().run, work)
        except RuntimeError as error:
            self._places.release()
            raise Unavailable("the service stops", where=self._name, remedy="Try again") from error
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Takes no more work, and blocks until all that was taken is done."""
        self._pool.shutdown()


def _within(opened: AbstractContextManager[C], work: Callable[[C], T]) -> T:
    with opened as held:
        return work(held)


def _refuse_on_an_event_loop(used: str, instead: str) -> None:
    """While a database waits there, nobody else is answered."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"the event loop must not wait for the database: `await store.{instead}`, not `store.{used}`"
    )


def assert_migrations_match(store: Store, *metadata: MetaData) -> None:
    """Raises AssertionError naming each table, column, index and constraint in which what the
    migrations made and what `metadata` declares differ. For a service's tests.
    """
    from alembic.autogenerate import compare_metadata

    versions = {"alembic_version", RUNTIME_VERSIONS}
    declared = [*metadata, RuntimeTables.metadata]
    options = {"compare_type": True, "include_name": lambda name, kind, _: name not in versions}
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        differences = [difference for difference in compare_metadata(context, declared) if difference]  # type: ignore[arg-type]
        unknown = set(inspect(connection).get_table_names()) - versions
    unknown -= {table for one in declared for table in one.tables}
    assert not differences, "migrations and tables differ: " + "; ".join(map(str, differences))
    assert not unknown, f"the migrations make tables that nothing declares: {sorted(unknown)}"
