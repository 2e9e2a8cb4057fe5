"""Store: migrated, one writer, all or nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import String, select, text
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.errors import Conflict, TooLarge
from penstock.contracts.events import AuditFailed, AuditStarted
from penstock.runtime.store import Effect, Store, UtcDateTime, assert_migrations_match
from penstock.runtime.tables import JobRow, OutboxRow

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
    with store.read() as session:
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
    with store.read() as session:
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
    with store.read() as session:
        assert session.scalars(select(Note.key)).all() == ["a"]


def test_a_job_is_enqueued_once(store: Store) -> None:
    with store.transaction() as effect:
        assert effect.enqueue("audit", "1", {"n": 1})
        assert not effect.enqueue("audit", "1", {"n": 2})
        assert effect.enqueue("other", "1", {"n": 3})
    with store.read() as session:
        assert [row.payload["n"] for row in session.scalars(select(JobRow).order_by(JobRow.id))] == [1, 3]


async def test_awaiting_inside_a_transaction_is_refused_where_it_happens(store: Store) -> None:
    async def slow() -> None:
        with store.transaction() as effect:
            effect.session.add(Note(key="a", at=NOON))
            await asyncio.sleep(0)  # any await is refused

    with pytest.raises(RuntimeError, match="awaited inside a transaction"):
        await slow()
    with store.read() as session:
        assert not session.scalars(select(Note)).all()


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
    with store.read() as session:
        assert len(session.scalars(select(Note)).all()) == 40


def test_reading_refuses_to_write(store: Store) -> None:
    with pytest.raises(DBAPIError, match=r"read-?only"), store.read() as session:
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


def test_a_thread_may_do_a_handlers_database_work(store: Store) -> None:
    effect = Effect(store, ("g", "1"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(effect.publish, started("1")).result()
        effect.commit()
        pool.submit(Effect(store, ("g", "2")).commit).result()
    assert store.has_applied("g", "2")


def test_an_old_inbox_row_is_forgotten(store: Store) -> None:
    effect = Effect(store, ("g", "1"))
    effect.commit()
    assert store.has_applied("g", "1")
    assert store.forget(timedelta(days=1)) == 0
    assert store.forget(timedelta(seconds=-1)) == 1
    assert not store.has_applied("g", "1")
