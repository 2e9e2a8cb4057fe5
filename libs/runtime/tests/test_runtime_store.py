"""Store: migrated, one writer, all or nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import String, select, text
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.errors import Conflict, TooLarge, Unavailable
from penstock.contracts.events import AuditFailed, AuditStarted
from penstock.runtime.database import Database
from penstock.runtime.effect import has_applied
from penstock.runtime.store import CALLERS, Effect, Store, UtcDateTime, Write, assert_migrations_match
from penstock.runtime.tables import JobRow, OutboxRow
from penstock.testing.threads import in_a_thread

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Tables(DeclarativeBase):
    pass


class Note(Tables):
    __tablename__ = "notes"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store.open(database, Tables.metadata)
    yield opened
    opened.close()


def started(audit: str) -> AuditStarted:
    return AuditStarted(audit_id=audit, pipeline="p", digest="sha256:0", started_at=NOON)


def test_effect_and_events_are_committed_together(store: Store) -> None:
    with store.transaction() as effect:
        effect.session.add(Note(key="a", at=NOON))
        effect.publish(started("1"))
        effect.publish(
            AuditFailed(audit_id="1", pipeline="p", digest="sha256:0", reason="r", remedy="m", failed_at=NOON)
        )
        effect.enqueue("audit", "1", {"n": 1})
    with store.snapshot() as session:
        assert session.scalars(select(Note.at)).one() == NOON
        assert [row.event_type for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id))] == [
            "io.penstock.AuditStarted.v1",
            "io.penstock.AuditFailed.v1",
        ]
        assert session.scalars(select(JobRow)).one().payload == {"n": 1}


def test_nothing_is_left_of_a_block_that_raises(store: Store) -> None:
    heard: list[str] = []
    store.on_commit(heard.append)

    def fail() -> None:
        with store.transaction() as effect:
            effect.session.add(Note(key="a", at=NOON))
            effect.publish(started("1"))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    with store.snapshot() as session:
        assert not session.scalars(select(Note)).all()
        assert not session.scalars(select(OutboxRow)).all()
    assert heard == []


def test_listeners_hear_what_a_commit_left(store: Store) -> None:
    heard: list[str] = []
    store.on_commit(heard.append)
    with store.transaction() as effect:
        effect.publish(started("1"))
        effect.enqueue("audit", "1", {})
        assert heard == []
    assert heard == ["enqueue", "publish"]


def test_what_follows_a_commit_cannot_make_it_look_undone(store: Store) -> None:
    heard: list[str] = []

    def fail() -> None:
        raise LookupError

    with store.transaction() as effect:
        effect.session.add(Note(key="a", at=NOON))
        effect.after_commit(fail)
        effect.after_commit(lambda: heard.append("the next"))
    assert heard == ["the next"]
    with store.snapshot() as session:
        assert session.scalars(select(Note.key)).all() == ["a"]


def test_a_job_is_enqueued_once(store: Store) -> None:
    with store.transaction() as effect:
        assert effect.enqueue("audit", "1", {"n": 1})
        assert not effect.enqueue("audit", "1", {"n": 2})
        assert effect.enqueue("other", "1", {"n": 3})
    with store.snapshot() as session:
        assert [row.payload["n"] for row in session.scalars(select(JobRow).order_by(JobRow.id))] == [1, 3]


async def test_a_transaction_on_the_event_loops_thread_is_refused_where_it_begins(store: Store) -> None:
    """So nothing can be awaited inside one."""
    transaction, snapshot = store.transaction(), store.snapshot()
    with pytest.raises(RuntimeError, match="must not wait for the database"), transaction as effect:
        effect.session.add(Note(key="a", at=NOON))
    with pytest.raises(RuntimeError, match="must not wait for the database"), snapshot:
        pass
    assert await store.read(lambda session: session.scalars(select(Note)).all()) == []


def test_a_nested_transaction_is_refused_and_harms_nothing(store: Store) -> None:
    def nest() -> None:
        with store.transaction(), store.transaction():
            pass

    with pytest.raises(RuntimeError, match="open already"):
        nest()
    with store.transaction() as effect:
        effect.session.add(Note(key="a", at=NOON))


def test_writers_in_threads_wait_for_each_other(store: Store) -> None:
    def write(name: str) -> None:
        for n in range(10):
            with store.transaction() as effect:
                effect.session.add(Note(key=f"{name}-{n}", at=NOON))

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.snapshot() as session:
        assert len(session.scalars(select(Note)).all()) == 40


def test_reading_refuses_to_write(store: Store) -> None:
    with pytest.raises(DBAPIError, match=r"read-?only"), store.snapshot() as session:
        session.execute(text("DELETE FROM notes"))


def test_a_naive_time_is_refused(store: Store) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with store.transaction() as effect:
        effect.session.add(Note(key="a", at=naive))
        with pytest.raises(StatementError, match="no time zone"):
            effect.session.flush()
        effect.session.rollback()


def test_sqlite_is_durable_by_its_settings(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/x.db")
    with store.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    store.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_the_runtimes_tables_are_what_its_migrations_make(store: Store) -> None:
    assert_migrations_match(store, Tables.metadata)


def test_a_table_without_a_migration_is_named(database: str) -> None:
    bare = Store.open(database)
    with pytest.raises(AssertionError, match="notes"):
        assert_migrations_match(bare, Tables.metadata)
    bare.close()


def test_a_migration_without_a_table_is_named(store: Store) -> None:
    with pytest.raises(AssertionError, match="notes"):
        assert_migrations_match(store)


def test_a_database_of_a_newer_release_is_refused(database: str) -> None:
    opened = Store.open(database)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE penstock_runtime_version SET version_num = '9999'")
    opened.close()
    with pytest.raises(Conflict, match="does not fit"):
        Store.open(database)


def test_opening_again_changes_nothing(database: str) -> None:
    for _ in range(2):
        Store.open(database, Tables.metadata).close()


def test_an_event_too_large_for_kafka_is_refused_before_it_is_stored(store: Store) -> None:
    event = AuditFailed(
        audit_id="1", pipeline="p", digest="d", reason="x" * 1_000_000, remedy="", failed_at=NOON
    )
    with store.transaction() as effect, pytest.raises(TooLarge, match="AuditFailed has"):
        effect.publish(event)


async def test_an_old_inbox_row_is_forgotten(store: Store) -> None:
    async def is_known() -> bool:
        return await store.read(lambda session: has_applied(session, "g", "1"))

    assert await store.apply("g", "1", lambda effect: None)
    assert await is_known()
    assert await store.write(lambda effect: effect.forget(timedelta(days=1))) == 0
    assert await store.write(lambda effect: effect.forget(timedelta(seconds=-1))) == 1
    assert not await is_known()


# -- on an event loop ------------------------------------------------------------------------------


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Another process's writer."""
    other = Store(Database(store.engine.url), store.clock)
    with in_a_thread(other.transaction()):
        yield
    other.close()


async def keys(store: Store) -> list[str]:
    return await store.read(lambda session: list(session.scalars(select(Note.key).order_by(Note.key))))


def noting(key: str) -> Write:
    return lambda effect: effect.session.add(Note(key=key, at=NOON))


async def test_while_another_writes_only_writers_wait(store: Store) -> None:
    with held(store):
        writing = asyncio.create_task(store.write(noting("a")))
        for _ in range(20):
            assert await asyncio.wait_for(keys(store), 30) == []
        assert not writing.done()
    await writing
    assert await keys(store) == ["a"]


async def test_writes_follow_one_another_in_the_order_of_the_calls(store: Store) -> None:
    done: list[int] = []
    await asyncio.gather(*(store.write(lambda effect, n=n: done.append(n)) for n in range(50)))  # type: ignore[misc]
    assert done == list(range(50))


async def test_a_caller_that_leaves_leaves_all_of_a_transaction_or_nothing(store: Store) -> None:
    """And what was to follow its commit follows."""
    begun, go_on, followed = threading.Event(), threading.Event(), threading.Event()

    def slow(effect: Effect) -> None:
        effect.session.add(Note(key="begun", at=NOON))
        effect.publish(started("1"))
        effect.after_commit(followed.set)
        begun.set()
        assert go_on.wait(10)

    first = asyncio.create_task(store.write(slow))
    second = asyncio.create_task(store.write(noting("not begun")))
    await asyncio.to_thread(begun.wait, 10)
    for task in (first, second):
        task.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.cancelled()
    go_on.set()
    await store.write(noting("next"))
    assert await keys(store) == ["begun", "next"]
    assert followed.is_set()
    assert len(await store.read(lambda session: session.scalars(select(OutboxRow)).all())) == 1


async def test_more_than_may_wait_are_told_so(store: Store) -> None:
    with held(store):
        writing = [asyncio.create_task(store.write(noting(str(n)))) for n in range(CALLERS)]
        await asyncio.sleep(0)  # they are handed over
        with pytest.raises(Unavailable, match=f"database writer: {CALLERS} calls wait for it already"):
            await store.write(noting("one more"))
        for task in writing[1:]:
            task.cancel()
        await asyncio.wait(writing[1:])
        last = asyncio.create_task(store.write(noting("last")))
    await asyncio.gather(writing[0], last)
    assert await keys(store) == ["0", "last"]


async def test_closing_waits_for_what_was_asked_for(database: str) -> None:
    store = Store.open(database, Tables.metadata)
    with held(store):
        writing = [asyncio.create_task(store.write(noting(str(n)))) for n in range(3)]
        await asyncio.sleep(0)  # they are handed over
        closing = asyncio.create_task(asyncio.to_thread(store.close))
    await asyncio.gather(closing, *writing)
    with pytest.raises(Unavailable, match="the service stops"):
        await store.write(noting("late"))
    again = Store.open(database, Tables.metadata)
    assert await keys(again) == ["0", "1", "2"]
    again.close()


async def test_the_context_of_a_caller_goes_with_its_work(store: Store) -> None:
    with structlog.contextvars.bound_contextvars(event_id="e1"):
        assert (await store.write(lambda _: structlog.contextvars.get_contextvars()))["event_id"] == "e1"
        assert (await store.read(lambda _: structlog.contextvars.get_contextvars()))["event_id"] == "e1"
