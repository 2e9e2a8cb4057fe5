"""Two replicas of one service, two processes on one PostgreSQL: an event is applied once, a job run
by one, a key keeps its order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.events import AuditFailed, AuditStarted, encode
from penstock.contracts.topics import SHARED
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.runtime.tables import JobRow, LeaseRow, OutboxRow
from penstock.testing.broker import Kafka
from penstock.testing.postgres import Postgres
from penstock.testing.wait import until

pytestmark = [pytest.mark.docker, pytest.mark.kafka, pytest.mark.process]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEYS = ("a", "b", "c")
EVENTS, WISHES, JOBS = 30, 150, 8

TABLES = """
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Tables(DeclarativeBase):
        pass

    class Told(Tables):
        __tablename__ = "told"
        key: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        why: Mapped[str] = mapped_column(unique=True)
"""
JOB = """
    import sys, time
    from pathlib import Path
    from penstock.runtime.child import job_main

    def run(job):
        with Path(job.payload["marks"]).open("a") as marks:
            marks.write(f"{job.payload['job']} ")
        time.sleep(0.3)  # a job's work, long enough to be killed in
        return {}

    if __name__ == "__main__":
        job_main(run)
"""
REPLICA = """
    import asyncio, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from sqlalchemy import func, select
    from penstock.contracts.events import AuditFailed, AuditStarted
    from penstock.runtime.broker import ControlPlane, Router
    from penstock.runtime.jobs.process import Child
    from penstock.runtime.jobs.worker import Callbacks, Jobs
    from penstock.runtime.settings import KafkaSettings
    from penstock.runtime.store import Store
    from told_tables import Tables, Told

    def tell(effect, key, why):
        # The next number of the key, as whoever else writes has left it: told in this order, or
        # somebody read what was not yet true.
        number = 1 + (effect.session.scalar(select(func.max(Told.number)).where(Told.key == key)) or 0)
        effect.session.add(Told(key=key, number=number, why=why))
        effect.publish(
            AuditFailed(
                audit_id=why,
                pipeline="p",
                digest=key,
                reason=str(number),
                remedy="",
                failed_at=datetime.now(UTC),
            )
        )

    async def main(replica, prefix, bootstrap, url, wishes):
        store = Store.open(url, Tables.metadata)
        router = Router("g", store)
        router.on(AuditStarted)(lambda event, effect: tell(effect, event.digest, event.audit_id))
        plane = ControlPlane(
            "t",
            KafkaSettings(bootstrap_servers=bootstrap, topic_prefix=prefix),
            [router],
            store=store,
            replica=replica,
        )
        callbacks = Callbacks(
            on_result=lambda job_id, result, effect: tell(effect, "jobs", job_id),
            on_failure=lambda *failure: print(failure),
        )
        jobs = Jobs("once", Child("told_job"), callbacks, store=store, owner=replica)

        async def wish():
            while not Path("go").exists():
                await asyncio.sleep(0.01)  # polls; the test ends it
            for number in range(int(wishes)):
                why = f"wish {replica} {number}"
                await store.write(lambda effect: tell(effect, "a", why))

        await asyncio.gather(plane.run(), jobs.run(), wish())

    asyncio.run(main(*sys.argv[1:]))
"""


class Tables(DeclarativeBase):
    pass


class Told(Tables):
    __tablename__ = "told"
    key: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    why: Mapped[str] = mapped_column(unique=True)


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    made = kafka.settings(f"replicas-{uuid.uuid4().hex[:8]}.")
    ensure_topics(made, [topic for topic in SHARED if topic.name == "audits.v1"])
    return made


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as made:
        yield made


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, Tables.metadata)
    yield opened
    opened.close()


class Replicas:
    def __init__(self, folder: Path, url: str, kafka: KafkaSettings) -> None:
        self._folder, self._url, self._kafka = folder, url, kafka
        for name, text in (("told_tables", TABLES), ("told_job", JOB), ("replica", REPLICA)):
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        arguments = [name, self._kafka.topic_prefix, self._kafka.bootstrap_servers, self._url, str(WISHES)]
        environment = os.environ | {"PYTHONPATH": str(self._folder)}
        self.running[name] = subprocess.Popen(
            [sys.executable, "replica.py", *arguments], env=environment, cwd=self._folder
        )

    def kill(self, name: str) -> None:
        replica = self.running.pop(name)
        replica.send_signal(signal.SIGKILL)
        replica.wait(10)


@pytest.fixture
def replicas(tmp_path: Path, url: str, settings: KafkaSettings, store: Store) -> Iterator[Replicas]:
    made = Replicas(tmp_path, url, settings)
    yield made
    for name in list(made.running):
        made.kill(name)


def send(kafka: KafkaSettings) -> None:
    producer = Producer(kafka.client())
    for number in range(EVENTS):
        event = AuditStarted(
            audit_id=f"event {number}", pipeline="p", digest=KEYS[number % 3], started_at=NOON
        )
        for _ in range(2):  # each comes twice
            headers = {"ce_type": event.ce_type(), "ce_id": f"id-{number}"}
            producer.produce(kafka.topic("audits.v1"), encode(event), event.key, headers=headers)
    assert producer.flush(10) == 0


def published(kafka: KafkaSettings) -> list[tuple[str, str, int]]:
    """(ce_id, key, number) of what the replicas told, as it lies in the topic."""
    consumer = Consumer(kafka.client(group_id="nobody", enable_auto_commit=False))
    place = TopicPartition(kafka.topic("audits.v1"), 0, 0)
    _, end = consumer.get_watermark_offsets(place, timeout=5)
    consumer.assign([place])
    found: list[tuple[str, str, int]] = []
    read = 0
    while read < end:
        for message in consumer.consume(end, 0.2):
            read = (message.offset() or 0) + 1
            headers = {name: value.decode() for name, value in message.headers() or []}
            if headers["ce_type"] == AuditFailed.ce_type():
                told = AuditFailed.model_validate_json(message.value() or b"")
                found.append((headers["ce_id"], told.digest, int(told.reason)))
    consumer.close()
    return found


def test_two_replicas_share_the_work_and_one_takes_over(
    replicas: Replicas, store: Store, settings: KafkaSettings, tmp_path: Path
) -> None:
    """The replica whose relay works is killed in the middle of everything."""
    marks = tmp_path / "marks"
    with store.transaction() as effect:
        for number in range(JOBS):
            effect.enqueue("once", f"job {number}", {"marks": str(marks), "job": number})
    for name in ("0", "1"):
        replicas.start(name)

    def count(table: type[DeclarativeBase]) -> int:
        with store.snapshot() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def workers() -> set[str | None]:
        with store.snapshot() as session:
            return set(session.scalars(select(JobRow.owner).where(JobRow.state == "running")))

    until(lambda: workers() >= {"0", "1"}, what="both replicas run a job")
    send(settings)
    (tmp_path / "go").touch()
    until(lambda: count(Told) >= WISHES, what="both are in the middle of it")
    with store.snapshot() as session:
        leading = session.get_one(LeaseRow, "outbox").owner.removeprefix("t/")
    replicas.kill(leading)
    with store.snapshot() as session:
        wished = session.scalar(select(func.count()).where(Told.why.startswith(f"wish {leading} "))) or 0
    total = EVENTS + WISHES + wished + JOBS
    until(
        lambda: count(Told) == total and not count(OutboxRow),
        within=90,
        what="the other replica has done the rest",
    )

    with store.snapshot() as session:
        told = session.execute(select(Told.key, Told.number).order_by(Told.key, Told.number)).all()
        assert session.scalar(select(func.count()).where(JobRow.state == "done")) == JOBS
    starts = marks.read_text().split()
    assert set(starts) == set(map(str, range(JOBS)))
    assert len(starts) - JOBS <= 1, (
        "of the jobs only the one that the killed replica worked on was begun again"
    )

    found = published(settings)
    first = list({ce_id: (key, number) for ce_id, key, number in found}.values())
    assert sorted(first) == sorted(told), "each row is published, under one id"
    for key in (*KEYS, "jobs"):
        numbers = [number for of, number in first if of == key]
        assert numbers == list(range(1, len(numbers) + 1)), f"{key} keeps its order"
