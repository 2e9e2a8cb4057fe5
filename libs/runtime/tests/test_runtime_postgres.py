"""What holds on PostgreSQL though several replicas write: one writer at a time, rows in the order
of their commits, snapshots.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import JSON, String, event, func, make_url, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.events import AuditStarted
from penstock.runtime import migrations, postgresql
from penstock.runtime.database import Database, DatabaseAway, persistently
from penstock.runtime.store import Effect, Store
from penstock.runtime.tables import InboxRow, OutboxRow
from penstock.testing.postgres import Postgres
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until

pytestmark = pytest.mark.docker

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Tables(DeclarativeBase):
    pass


class Note(Tables):
    __tablename__ = "notes"
    key: Mapped[str] = mapped_column(String(8), primary_key=True)
    body: Mapped[Any] = mapped_column(JSON, nullable=True)


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], Store]]:
    """Each call is another replica's store."""
    with ExitStack() as stack:

        def another() -> Store:
            store = Store.open(url, Tables.metadata)
            stack.callback(store.close)
            return store

        yield another


@pytest.fixture
def store(opened: Callable[[], Store]) -> Store:
    return opened()


def started(audit: str) -> AuditStarted:
    return AuditStarted(audit_id=audit, pipeline="p", digest="d", started_at=NOON)


def outbox(store: Store) -> list[str]:
    with store.snapshot() as session:
        rows = session.scalars(select(OutboxRow).order_by(OutboxRow.id)).all()
    return [AuditStarted.model_validate_json(row.value).audit_id for row in rows]


def writers_waiting(database: Database) -> int:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    )
    with database.engine.connect().execution_options(**database.snapshot) as connection:
        return int(connection.scalar(waiting) or 0)


def quickly(store: Store, setting: str) -> None:
    """New sessions of this store have another time limit, in milliseconds."""
    event.listen(
        store.engine,
        "connect",
        lambda connection, _: (connection.execute(f"SET {setting}"), connection.commit()),
    )
    store.engine.dispose()


def test_a_row_becomes_visible_in_the_order_of_its_id(opened: Callable[[], Store]) -> None:
    """A relay that has published a row never finds a smaller id afterwards."""
    slow, quick = opened(), opened()

    def write() -> None:
        with quick.transaction() as effect:
            effect.publish(started("second"))

    with slow.transaction() as effect:
        effect.publish(started("first"))
        other = threading.Thread(target=write)
        other.start()
        until(lambda: writers_waiting(slow.database) == 1, what="the second writer waits")
        assert outbox(slow) == []
    other.join()
    assert outbox(slow) == ["first", "second"]


def test_what_a_writer_has_read_stays_true_until_it_commits(opened: Callable[[], Store]) -> None:
    """Read, add one, write: from four replicas at once none is lost."""
    stores = [opened() for _ in range(4)]

    def count(store: Store) -> None:
        for _ in range(15):
            with store.transaction() as effect:
                note = effect.session.get(Note, "n") or Note(key="n", body=0)
                note.body += 1
                effect.session.add(note)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, stores))
    with stores[0].snapshot() as session:
        assert session.get_one(Note, "n").body == 60


def test_two_replicas_apply_an_event_once(opened: Callable[[], Store]) -> None:
    first, second, third = opened(), opened(), opened()
    applied: list[str] = []

    def apply(store: Store) -> None:
        new = asyncio.run(store.apply("g", "event", lambda effect: applied.append("handled")))
        applied.append("once" if new else "repeated")

    with first.transaction():
        threads = [threading.Thread(target=apply, args=(store,)) for store in (second, third)]
        for thread in threads:
            thread.start()
        until(lambda: writers_waiting(first.database) == 2, what="both have begun")
    for thread in threads:
        thread.join()
    assert sorted(applied) == ["handled", "once", "repeated"]
    with first.snapshot() as session:
        assert session.scalar(select(func.count()).select_from(InboxRow)) == 1


def test_a_reader_waits_for_nobody_and_sees_one_moment(opened: Callable[[], Store]) -> None:
    writer, reader = opened(), opened()
    with writer.transaction() as effect:
        effect.session.add(Note(key="a"))
        effect.session.flush()
        with reader.snapshot() as session:
            assert session.scalars(select(Note.key)).all() == []
            effect.session.commit()
            assert session.scalars(select(Note.key)).all() == []
    with reader.snapshot() as session:
        assert session.scalars(select(Note.key)).all() == ["a"]


def test_more_threads_than_connections_are_kept(store: Store) -> None:
    together = threading.Barrier(30)

    def use(number: int) -> None:
        together.wait()
        with store.transaction() as effect:
            effect.session.add(Note(key=str(number)))
        with store.snapshot() as session:
            assert session.get(Note, str(number)) is not None

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(use, range(30)))


def test_who_waits_too_long_for_another_writer_may_try_again(opened: Callable[[], Store]) -> None:
    holds, waits = opened(), opened()
    quickly(waits, "lock_timeout = 100")
    with (
        holds.transaction(),
        pytest.raises(Unavailable, match=r"database \(.*\): another writer has held it") as caught,
        waits.transaction(),
    ):
        pass
    assert not isinstance(caught.value, DatabaseAway)
    with waits.transaction() as effect:
        effect.session.add(Note(key="a"))


def test_a_replica_that_stands_still_in_a_transaction_loses_it(opened: Callable[[], Store]) -> None:
    still, other = opened(), opened()
    quickly(still, "idle_in_transaction_session_timeout = 100")

    def go_on() -> None:
        with other.transaction() as effect:
            effect.session.add(Note(key="other"))

    def stand_still() -> None:
        with still.transaction() as effect:
            effect.session.add(Note(key="still"))
            effect.session.flush()
            thread = threading.Thread(target=go_on)
            thread.start()
            thread.join()

    with pytest.raises(DatabaseAway, match="idle-in-transaction"):
        stand_still()
    with still.snapshot() as session:
        assert session.scalars(select(Note.key)).all() == ["other"]


@pytest.mark.parametrize("key", ["more than eight", "\x00"])
def test_a_value_that_no_column_takes_is_the_callers_mistake(store: Store, key: str) -> None:
    with pytest.raises(Invalid, match="a value cannot be stored") as caught, store.transaction() as effect:
        effect.session.add(Note(key=key))
    assert key not in str(caught.value)


@pytest.mark.parametrize("body", [None, {"a": [1, 2.5, "ß", None, "\x00"]}, "text", 0, [], 1e300, "\ud800"])
def test_json_comes_back_as_it_was(store: Store, body: Any) -> None:
    with store.transaction() as effect:
        effect.session.add(Note(key="a", body=body))
    with store.snapshot() as session:
        assert session.get_one(Note, "a").body == body


OPEN = "import sys; from penstock.runtime.store import Store; Store.open(sys.argv[1]).close()"


@pytest.mark.process
def test_replicas_that_start_together_migrate_one_after_the_other(url: str) -> None:
    """All of them find the database empty, none fails, and it is migrated once."""
    empty = Database(url)
    with empty.engine.begin():
        replicas = [subprocess.Popen([sys.executable, "-c", OPEN, url]) for _ in range(3)]
        until(lambda: writers_waiting(empty) == 3, what="three replicas wait to migrate")
    assert [replica.wait(60) for replica in replicas] == [0, 0, 0]
    newest = max(path.name[:4] for path in Path(migrations.__path__[0]).glob("0*.py"))
    with empty.engine.connect() as connection:
        assert connection.scalars(text("SELECT version_num FROM penstock_runtime_version")).all() == [newest]
    empty.close()


def test_a_database_that_takes_no_writes_is_waited_for(url: str, opened: Callable[[], Store]) -> None:
    """As a standby does after a failover; a retry finds the new primary."""
    store = opened()
    with store.transaction() as effect:
        effect.session.execute(
            text(
                "ALTER DATABASE "
                + str(store.database.engine.url.database)
                + " SET default_transaction_read_only = on"
            )
        )
    store.database.engine.dispose()
    with pytest.raises(DatabaseAway, match="takes no writes"), store.transaction() as effect:
        effect.session.add(Note(key="a", body=1))
    with store.snapshot() as session:
        assert session.scalar(select(func.count()).select_from(Note)) == 0
    psycopg.connect(
        url.replace("+psycopg", ""), autocommit=True, options="-c default_transaction_read_only=off"
    ).execute(
        f"ALTER DATABASE {store.database.engine.url.database} SET default_transaction_read_only = off"
    ).connection.close()
    with store.transaction() as effect:  # in a session of its own: the one before stays read-only
        effect.session.add(Note(key="a", body=1))


class Between:
    """An address that leads to a server until it is told to stand still: then nothing is passed on,
    and TCP acknowledges all the same.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.goes = threading.Event()
        self.goes.set()
        self._to = (host, port)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                ends = self._server.accept()[0], socket.create_connection(self._to)
                for source, target in (ends, ends[::-1]):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.goes.wait()
                target.sendall(data)
        target.close()

    def close(self) -> None:
        self.goes.set()
        self._server.close()


@pytest.fixture
def between(url: str) -> Iterator[Between]:
    to = make_url(url)
    assert to.host is not None
    made = Between(to.host, to.port or postgresql.PORT)
    yield made
    made.close()


@pytest.fixture
def through(url: str, between: Between) -> Iterator[Store]:
    store = Store.open(make_url(url).set(host="127.0.0.1", port=between.port), Tables.metadata)
    yield store
    store.close()


async def test_a_server_that_stands_still_is_lost_and_found_again(
    through: Store, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "SILENT_S", 0.3)
    await through.write(lambda effect: effect.session.add(Note(key="a")))
    between.goes.clear()
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(DatabaseAway):
            await through.write(lambda effect: effect.session.add(Note(key="b")))
    assert time.monotonic() - began < postgresql.CONNECT_WITHIN_S + 3
    between.goes.set()
    await persistently(lambda: through.write(lambda effect: effect.session.add(Note(key="c"))))
    assert await through.read(lambda session: list(session.scalars(select(Note.key)))) == ["a", "c"]


async def test_a_writer_is_not_held_for_ever_by_a_server_that_stands_still(
    through: Store, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "WRITER_ANSWERS_WITHIN_S", 0.3)

    def write(effect: Effect) -> None:
        effect.session.add(Note(key="a"))
        between.goes.clear()

    with pytest.raises(DatabaseAway, match="it has not answered"):
        await through.write(write)


async def test_a_writer_waits_for_another_one_longer_than_a_reader_for_an_answer(
    opened: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "SILENT_S", 0.2)
    holds, waits = opened(), opened()
    with in_a_thread(holds.transaction()):
        writing = asyncio.create_task(waits.write(lambda effect: effect.session.add(Note(key="a"))))
        done, _ = await asyncio.wait([writing], timeout=0.8)
        assert not done
    await writing
