"""A service's database: one transaction holds the inbox row, the effect and the events that follow from it.

Synchronous SQLAlchemy over SQLite or PostgreSQL (`database.py`). A write blocks the calling thread
for one fsync, some milliseconds; control-plane transactions are few and short. What is committed is
durable; the rest is gone, its events too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

import structlog
from sqlalchemy import URL, Engine, MetaData, delete, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts.errors import TooLarge
from penstock.contracts.events import Event, encode
from penstock.runtime import migrate
from penstock.runtime.database import Database
from penstock.runtime.tables import InboxRow, JobRow, OutboxRow, RuntimeTables, UtcDateTime
from penstock.runtime.telemetry import current_traceparent

log = structlog.get_logger(__name__)

__all__ = ["Effect", "Store", "UtcDateTime", "assert_migrations_match"]

RUNTIME_MIGRATIONS = "penstock.runtime.migrations"
RUNTIME_VERSIONS = "penstock_runtime_version"
LARGEST_EVENT = 900_000
"""Kafka's default limit is 1 MiB with headers; a row that can never be published would hold up all
behind it.
"""

Wish = Literal["publish", "enqueue", "cancel"]
"""What a committed transaction left behind for the relay or the workers."""


class Repeated(BaseException):
    """The event was applied before, by this replica or another. Not an Exception: a handler's own
    `except` must not eat it.
    """


class Store:
    """One database, shared by the threads of one process."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self.database = database
        self.clock = clock
        self._listeners: list[Callable[[Wish], None]] = []
        self._open: dict[int, Effect] = {}
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

    @property
    def engine(self) -> Engine:
        return self.database.engine

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Effect]:
        """All or nothing. Rolled back when the block raises; committed, and durable, when it ends.

        Nothing may be awaited inside: the transaction holds the database's only write lock.
        RuntimeError says where that was tried.
        """
        effect = Effect(self)
        try:
            effect.begin()
            yield effect
            effect.commit()
        finally:
            effect.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A snapshot. A write in it is refused by the database."""
        with self.engine.connect().execution_options(**self.database.snapshot) as connection:
            session = Session(connection, expire_on_commit=False, autoflush=False)
            try:
                yield session
            finally:
                session.close()

    def on_commit(self, listener: Callable[[Wish], None]) -> None:
        """Calls `listener` after each commit that left work, from the committing thread. It must
        not block or raise.
        """
        self._listeners.append(listener)

    def has_applied(self, group: str, event_id: str) -> bool:
        with self.read() as session:
            return session.get(InboxRow, (group, event_id)) is not None

    def forget(self, older_than: timedelta) -> int:
        """Deletes old inbox rows and ended jobs; returns how many. An event that comes again after
        that is applied again.
        """
        before = self.clock() - older_than
        old_events = delete(InboxRow).where(InboxRow.applied_at < before)
        old_jobs = delete(JobRow).where(
            JobRow.state.in_(("done", "failed", "canceled")), JobRow.updated_at < before
        )
        with self.transaction() as effect:
            return sum(effect.session.execute(old).rowcount for old in (old_events, old_jobs))  # type: ignore[attr-defined]  # CursorResults

    def close(self) -> None:
        self.database.close()

    def _tell(self, wish: Wish) -> None:
        for listener in self._listeners:
            listener(wish)

    def _found(self, away: str | None) -> None:
        """The database is back: relay and workers need not wait until they look again by themselves."""
        if away is None:
            self._tell("publish")
            self._tell("enqueue")


class Effect:
    """What a handler or a servicer does, in one transaction that begins at the first use and is
    committed by whoever made it.
    """

    def __init__(self, store: Store, inbox: tuple[str, str] | None = None) -> None:
        self._store = store
        self._inbox = inbox
        self._session: Session | None = None
        self._wishes: set[Wish] = set()
        self._after: list[Callable[[], None]] = []
        self._suspended = False
        self._thread = 0

    @property
    def session(self) -> Session:
        return self.begin()

    def begin(self) -> Session:
        """Opens the transaction, waiting up to 30 s for another writer. Raises Repeated when the
        inbox knows the event.
        """
        if self._session is not None:
            return self._session
        thread = threading.get_ident()
        if thread in self._store._open:
            raise RuntimeError(
                "a transaction is open already in this thread; do not nest, and do not await inside a"
                " transaction"
            )
        session = Session(self._store.engine, expire_on_commit=False)
        try:
            session.connection()
            if self._inbox and not _insert_new(
                session,
                InboxRow,
                group_id=self._inbox[0],
                event_id=self._inbox[1],
                applied_at=self._store.clock(),
            ):
                raise Repeated
        except BaseException:
            session.close()
            raise
        self._session, self._thread = session, thread
        self._store._open[thread] = self
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_soon(self._loop_went_on)
        return session

    def publish(self, event: Event) -> None:
        """The event goes to Kafka after the commit, in the order of these calls, at least once.
        Raises TooLarge.
        """
        value = encode(event)
        if len(value) > LARGEST_EVENT:
            raise TooLarge(
                f"{type(event).__name__} has {len(value)} bytes, at most {LARGEST_EVENT}",
                remedy="Put the bulk into an artifact",
            )
        self.session.add(
            OutboxRow(
                topic=event.topic,
                key=event.key,
                event_id=str(ULID()),
                event_type=event.ce_type(),
                occurred_at=self._store.clock(),
                traceparent=current_traceparent(),
                value=value,
            )
        )
        self.session.flush()
        self._wishes.add("publish")

    def enqueue(self, kind: str, job_id: str, payload: dict[str, Any]) -> bool:
        """A job for the workers of `kind`. False, and nothing changed, where the same job was
        enqueued before, however it ended.
        """
        now = self._store.clock()
        new = _insert_new(
            self.session,
            JobRow,
            kind=kind,
            job_id=job_id,
            payload=payload,
            traceparent=current_traceparent(),
            state="queued",
            attempt=0,
            crashes=0,
            refusals=0,
            not_before=now,
            created_at=now,
            updated_at=now,
        )
        self._wishes.add("enqueue")
        return new

    def cancel(self, kind: str, job_id: str) -> bool:
        """The job ends here: what its process still says is ignored, and it is killed. False where
        it had ended or never was.
        """
        row = self.session.scalar(
            select(JobRow).where(JobRow.kind == kind, JobRow.job_id == job_id).with_for_update()
        )
        if row is None or row.state not in ("queued", "running"):
            return False
        row.state, row.owner, row.lease_until, row.updated_at = "canceled", None, None, self._store.clock()
        self._wishes.add("cancel")
        return True

    def after_commit(self, do: Callable[[], None]) -> None:
        """Calls `do` once the transaction is durable; lost with the process, so only to wake somebody."""
        self._after.append(do)

    def commit(self) -> None:
        """Durable when it returns. A handler that never used its effect leaves its inbox row all the same."""
        if self._session is None and self._inbox is None:
            return self._tell()
        session = self.begin()
        if self._suspended:
            raise RuntimeError(
                "something was awaited inside a transaction; do slow work before the effect's first use"
            )
        session.commit()
        self.close()
        return self._tell()

    def close(self) -> None:
        """Rolls back what was not committed."""
        if self._session is not None:
            self._session.close()
            self._session = None
            del self._store._open[self._thread]

    def _tell(self) -> None:
        for wish in sorted(self._wishes):
            self._store._tell(wish)
        for do in self._after:
            try:
                do()
            except Exception:
                log.exception(
                    "after_commit_failed"
                )  # the transaction is durable: its caller must not take it for undone

    def _loop_went_on(self) -> None:
        self._suspended = self._session is not None


def _insert_new(session: Session, table: type[RuntimeTables], **values: Any) -> bool:
    """INSERT … ON CONFLICT DO NOTHING; whether a row was made."""
    session.flush()
    dialect = session.get_bind().dialect.name
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    made = session.execute(
        insert(table).values(**values).on_conflict_do_nothing().returning(*inspect(table).primary_key)
    )
    return made.first() is not None  # a row count is not told by every driver


def assert_migrations_match(store: Store, *metadata: MetaData) -> None:
    """Raises AssertionError naming each difference between what the migrations made and what the
    tables declare. For a service's tests.
    """
    migrate.assert_match(
        store.engine, [*metadata, RuntimeTables.metadata], versions={"alembic_version", RUNTIME_VERSIONS}
    )
