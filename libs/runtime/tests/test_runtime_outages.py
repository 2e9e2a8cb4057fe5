"""PostgreSQL away: stopped, killed and started again under what uses it. Nothing is lost or
doubled, and all goes on by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from structlog.testing import capture_logs

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Kind, Unavailable
from penstock.contracts.events import AuditFailed, AuditStarted, encode
from penstock.contracts.topics import SHARED
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.runtime.broker import ControlPlane, Retries, Router
from penstock.runtime.cloud_events import Received
from penstock.runtime.database import TRY_EVERY_S, DatabaseAway, persistently
from penstock.runtime.jobs import queue
from penstock.runtime.jobs.policy import Policy
from penstock.runtime.jobs.process import Child
from penstock.runtime.jobs.worker import Callbacks, Jobs
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.outbox import Relay
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Effect, Store, Write
from penstock.runtime.tables import JobRow, OutboxRow
from penstock.status.v1 import status_pb2, status_pb2_grpc
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.containers import or_skip
from penstock.testing.postgres import PASSWORD, PostgresContainer, database_settings, running_postgres
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until, until_async

pytestmark = [pytest.mark.docker, pytest.mark.process]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Tables(DeclarativeBase):
    pass


class Applied(Tables):
    __tablename__ = "applied"
    number: Mapped[int] = mapped_column(primary_key=True)
    audit: Mapped[str]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[PostgresContainer]:
    with or_skip(), running_postgres() as server:
        yield server


@pytest.fixture
def server(shared_server: PostgresContainer) -> Iterator[PostgresContainer]:
    """Up when a test begins."""
    yield shared_server
    shared_server.container.start()


@pytest.fixture
def url(server: PostgresContainer) -> Iterator[str]:
    with server.database() as made:
        yield made
        server.container.start()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url, Tables.metadata)
    yield opened
    opened.close()


def started(audit: str) -> AuditStarted:
    return AuditStarted(audit_id=audit, pipeline="p", digest="d", started_at=NOON)


def count(store: Store, table: type[DeclarativeBase]) -> int:
    with in_a_thread(store.snapshot()) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def back(store: Store) -> None:
    """Waits until the store can be used."""

    def there() -> bool:
        with contextlib.suppress(DatabaseAway):
            count(store, Applied)
            return True
        return False

    until(there, what="the database can be used")


happens = functools.partial(until_async, despite=DatabaseAway)
"""Waits; the check may use the database while it is away."""


# -- the store -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_that_nobody_was_in_the_middle_of_is_not_noticed(
    server: PostgresContainer, store: Store, end: str
) -> None:
    assert count(store, Applied) == 0
    getattr(server.container, end)()
    server.container.start()
    with store.transaction() as effect:
        effect.session.add(Applied(number=1, audit="1"))
    assert count(store, Applied) == 1


def test_while_it_is_away_every_use_says_so_and_few_try_to_connect(
    server: PostgresContainer, store: Store
) -> None:
    heard: list[str | None] = []
    store.database.presence.on_change(heard.append)
    tries: list[float] = []
    event.listen(store.engine, "do_connect", lambda *_: tries.append(time.monotonic()))
    server.container.stop()
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(
            DatabaseAway, match=rf"database \(127\.0\.0\.1:{server.container.port}/test_"
        ) as caught:
            count(store, Applied)
        assert PASSWORD not in str(caught.value)
    assert len(tries) <= 1 + (time.monotonic() - began) / TRY_EVERY_S
    with pytest.raises(DatabaseAway, match="refused"):
        store.database.ping()
    server.container.start()
    back(store)
    assert heard[0] is not None
    assert heard[-1] is None


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_handler_that_was_in_the_middle_is_undone_and_runs_again(
    server: PostgresContainer, store: Store, end: str
) -> None:
    router = Router("g", store)
    tries: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(audit: AuditStarted, effect: Effect) -> None:
        effect.session.add(Applied(number=1, audit=audit.audit_id))
        effect.publish(audit)
        tries.append(audit.audit_id)
        if len(tries) == 1:
            getattr(server.container, end)()

    received = Received("audits.v1", 0, 0, "e1", AuditStarted.ce_type(), {}, encode(started("1")))
    with pytest.raises(DatabaseAway):
        await router.handle(received)
    server.container.start()
    back(store)
    assert count(store, Applied) == count(store, OutboxRow) == 0
    assert await router.handle(received)
    assert not await router.handle(received)
    assert (tries, count(store, Applied), count(store, OutboxRow)) == (["1", "1"], 1, 1)


async def test_what_must_be_written_is_tried_until_it_is(server: PostgresContainer, store: Store) -> None:
    async def write() -> str:
        await store.write(lambda effect: effect.session.add(Applied(number=1, audit="1")))
        return "written"

    server.container.kill()
    writing = asyncio.create_task(persistently(write))
    await happens(lambda: "refused" in (store.database.presence.why or ""))
    await asyncio.to_thread(server.container.start)
    assert await asyncio.wait_for(writing, 10) == "written"
    assert count(store, Applied) == 1


async def test_what_kafka_has_acknowledged_is_not_published_again_after_it(
    server: PostgresContainer, store: Store
) -> None:
    published: list[str] = []

    async def publish(row: OutboxRow) -> None:
        published.append(AuditStarted.model_validate_json(row.value).audit_id)
        if published == ["0", "1"]:
            server.container.kill()

    with in_a_thread(store.transaction()) as effect:
        for number in range(3):
            effect.publish(started(str(number)))
    relay = Relay(store, publish, owner="me")
    with pytest.raises(DatabaseAway):
        await relay.drain()
    server.container.start()
    back(store)
    assert count(store, OutboxRow) == 3
    while await relay.drain():
        pass
    assert (published, count(store, OutboxRow)) == (["0", "1", "2"], 0)


# -- jobs ------------------------------------------------------------------------------------------

JOB = """
    import sys, time
    from pathlib import Path
    from penstock.runtime.child import job_main

    def run(job):
        with Path(job.payload["marks"]).open("a") as marks:
            marks.write(f"{job.attempt}\\n")
        while not Path(job.payload["go"]).exists():
            time.sleep(0.01)  # polls; the test ends it
        return {"attempt": job.attempt}

    if __name__ == "__main__":
        job_main(run)
"""


class Working:
    """A worker of one kind of job, and what it was told."""

    def __init__(self, store: Store, folder: Path, **options: Any) -> None:
        (folder / "waiting_job.py").write_text(textwrap.dedent(JOB))
        self.store = store
        self.marks, self.go = folder / "marks", folder / "go"
        self.results: list[int] = []
        self.before_a_result: Callable[[], None] = lambda: None
        self.failures: list[str] = []
        child = Child("waiting_job", environment={"PYTHONPATH": str(folder)})
        callbacks = Callbacks(self._on_result, self._on_failure)
        self.jobs = Jobs("waiting", child, callbacks, store=store, policy=Policy(**options))
        with in_a_thread(store.transaction()) as effect:
            effect.enqueue("waiting", "1", {"marks": str(self.marks), "go": str(self.go)})

    @property
    def starts(self) -> list[str]:
        return self.marks.read_text().split() if self.marks.exists() else []

    @property
    def row(self) -> JobRow:
        with in_a_thread(self.store.snapshot()) as session:
            return session.scalars(select(JobRow)).one()

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        task = asyncio.create_task(self.jobs.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _on_result(self, job_id: str, result: dict[str, Any], effect: Effect) -> None:
        self.results.append(result["attempt"])
        self.before_a_result()
        effect.session.add(Applied(number=result["attempt"], audit=job_id))
        effect.publish(started(job_id))

    def _on_failure(self, job_id: str, kind: Kind, message: str, remedy: str, effect: Effect) -> None:
        self.failures.append(message)


async def test_a_result_in_hand_waits_for_the_database(
    server: PostgresContainer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as that takes: more tries than another error is given."""
    monkeypatch.setattr(queue, "REFUSALS", 2)
    working = Working(store, tmp_path, attempts=1)
    async with working.running():
        await happens(lambda: working.starts)
        await asyncio.to_thread(server.container.kill)
        with capture_logs() as logs:
            working.go.touch()
            await happens(lambda: [entry["event"] for entry in logs].count("job_waits") > 4)
        await asyncio.to_thread(server.container.start)
        await happens(lambda: working.row.state == "done")
    assert (working.starts, working.failures) == (["1"], [])
    assert count(store, Applied) == count(store, OutboxRow) == 1


async def test_a_result_in_hand_is_not_forestalled_by_its_own_replica(
    server: PostgresContainer, store: Store, tmp_path: Path
) -> None:
    """Another worker of the same replica is free, and the lease has run out when the database is back."""
    working = Working(store, tmp_path, attempts=1, parallel=2, lease=timedelta(seconds=0.3))
    killed = asyncio.Event()

    def kill_once() -> None:
        if not killed.is_set():
            server.container.kill()
            killed.set()

    working.before_a_result = kill_once
    async with working.running():
        working.go.touch()
        await happens(killed.is_set)
        await asyncio.to_thread(server.container.start)
        await happens(lambda: working.row.state == "done")
    assert (working.starts, working.failures) == (["1"], [])


async def test_a_job_whose_lease_ran_out_meanwhile_is_gone_on_with_and_is_no_crash(
    server: PostgresContainer, store: Store, tmp_path: Path
) -> None:
    working = Working(store, tmp_path, attempts=1, lease=timedelta(seconds=0.3))
    async with working.running():
        await happens(lambda: working.starts)
        [process] = working.jobs._processes.values()
        await asyncio.to_thread(server.container.kill)
        await happens(
            lambda: (
                not Path(f"/proc/{process.pid}/environ").exists()
                or not Path(f"/proc/{process.pid}/cmdline").read_bytes()
            )
        )
        working.go.touch()
        await asyncio.to_thread(server.container.start)
        await happens(lambda: working.row.state == "done")
    assert (working.starts, working.row.crashes, working.failures) == (["1", "2"], 0, [])
    assert count(store, Applied) == count(store, OutboxRow) == 1


# -- the control plane -----------------------------------------------------------------------------


class Topic:
    """audits.v1 under a prefix of the test's own, with a plain client."""

    def __init__(self, kafka: Kafka) -> None:
        self.settings = kafka.settings(f"outage-{uuid.uuid4().hex[:8]}.")
        ensure_topics(self.settings, [topic for topic in SHARED if topic.name in ("audits.v1", "reviews.v1")])

    def send(self, *audits: str) -> None:
        producer = Producer(self.settings.client())
        for audit in audits:
            headers = {"ce_type": AuditStarted.ce_type(), "ce_id": f"id-{audit}"}
            producer.produce(self.settings.topic("audits.v1"), encode(started(audit)), "d", headers=headers)
        assert producer.flush(10) == 0

    def failures(self) -> list[tuple[str, str]]:
        """(ce_id, audit) of each AuditFailed there is now, in order."""
        consumer = Consumer(self.settings.client(group_id="nobody", enable_auto_commit=False))
        place = TopicPartition(self.settings.topic("audits.v1"), 0, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=5)
        consumer.assign([place])
        found: list[tuple[str, str]] = []
        read = 0
        while read < end:
            for message in consumer.consume(end, 0.2):
                read = (message.offset() or 0) + 1
                headers = {name: value.decode() for name, value in message.headers() or []}
                if headers["ce_type"] == AuditFailed.ce_type():
                    found.append(
                        (headers["ce_id"], AuditFailed.model_validate_json(message.value() or b"").audit_id)
                    )
        consumer.close()
        return found


@pytest.fixture
def topic(kafka: Kafka) -> Topic:
    return Topic(kafka)


@pytest.mark.kafka
async def test_killed_under_handlers_and_relay_it_loses_and_doubles_nothing(
    server: PostgresContainer, store: Store, topic: Topic
) -> None:
    """Though it is away for longer than a message's patience: there is no dead letter, and the
    control plane lives on.
    """
    total = 60
    router = Router("g", store, retries=Retries(first=0.02, longest=0.2, patience=0.5))

    @router.on(AuditStarted)
    async def on_audit_started(audit: AuditStarted) -> Write:
        await asyncio.sleep(0.005)  # a handler's work, long enough to be killed in

        def write(effect: Effect) -> None:
            effect.session.add(Applied(number=int(audit.audit_id), audit=audit.audit_id))
            effect.publish(
                AuditFailed(
                    audit_id=audit.audit_id, pipeline="p", digest="d", reason="", remedy="", failed_at=NOON
                )
            )

        return write

    topic.send(*map(str, range(total)))
    plane = ControlPlane("t", topic.settings, [router], store=store)
    task = asyncio.create_task(plane.run())
    try:
        for seen in (5, 25):
            await happens(lambda seen=seen: count(store, Applied) >= seen)
            await asyncio.to_thread(server.container.kill)
            await asyncio.sleep(1.5)  # longer than a message's patience
            await asyncio.to_thread(server.container.start)
        await happens(lambda: count(store, Applied) == total)
        await happens(lambda: count(store, OutboxRow) == 0)
        assert not task.done()
        assert plane.readiness.ready
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    published = topic.failures()
    assert list(dict.fromkeys(audit for _, audit in published)) == [str(number) for number in range(total)]
    assert len({ce_id for ce_id, _ in published}) == total


# -- a whole service -------------------------------------------------------------------------------

SERVICE = """
    import asyncio, sys
    from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
    from penstock.runtime.lifecycle import Service
    from penstock.runtime.process import start
    from penstock.runtime.settings import ServiceSettings, service_config
    from sqlalchemy import event, func, select
    from penstock.runtime.tables import JobRow
    from sqlalchemy.orm import DeclarativeBase

    class Tables(DeclarativeBase):
        pass

    class Settings(ServiceSettings):
        model_config = service_config("ingest")

    async def run(settings):
        async with Service("ingest", settings) as service:
            store = await service.store(Tables.metadata, migrations="no_migrations")

            class Servicer(ingest_pb2_grpc.IngestServiceServicer):
                async def GetCounts(self, request, context):
                    await store.write(lambda effect: effect.enqueue("none", request.pipeline, {}))
                    return ingest_pb2.GetCountsResponse()

            async def count():
                while True:
                    rows = select(func.count()).select_from(JobRow)
                    count = await store.read(lambda session: session.scalar(rows))
                    service.readiness.fact("jobs", f"{count} jobs")
                    await asyncio.sleep(0.05)  # a service's own period

            service.serve(
                ingest_pb2_grpc.add_IngestServiceServicer_to_server,
                Servicer(),
            )
            if "--tell" in sys.argv:
                service.background("facts", count)
            await service.until_stopped()

    start(run, Settings)
"""


class Running:
    """The service as a process."""

    def __init__(self, home: Path, url: str, kafka: KafkaSettings, *options: str) -> None:
        [port] = free_ports(1)
        (home / "no_migrations").mkdir()
        (home / "no_migrations" / "__init__.py").touch()
        environment = os.environ | {
            "PYTHONPATH": str(home),
            "PENSTOCK_HOME": str(home),
            "PENSTOCK_INGEST__PORT": str(port),
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        }
        environment |= database_settings("ingest", url, home)
        self.log = home / "log"
        command = [sys.executable, "-c", textwrap.dedent(SERVICE), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 200)]
        )
        grpc.channel_ready_future(self.channel).result(60)

    def serving(self) -> bool:
        state = (
            health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status
        )
        return bool(state == health_pb2.HealthCheckResponse.SERVING)

    def status(self) -> status_pb2.ServiceStatus:
        return (
            status_pb2_grpc.StatusServiceStub(self.channel)
            .GetStatus(status_pb2.GetStatusRequest(), timeout=5)
            .services[0]
        )

    def waits_for(self) -> dict[str, str]:
        return {wait.thing: wait.why for wait in self.status().waiting}

    def ask(self) -> None:
        request = ingest_pb2.GetCountsRequest(pipeline=uuid.uuid4().hex)
        ingest_pb2_grpc.IngestServiceStub(self.channel).GetCounts(request, timeout=5)

    def refusal(self) -> Unavailable:
        with pytest.raises(grpc.RpcError) as caught:
            self.ask()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        error = error_of_call(caught.value)
        assert isinstance(error, Unavailable)
        return error


@pytest.fixture
def start(tmp_path: Path, kafka: Kafka) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def begin(url: str, *options: str) -> Running:
        made.append(Running(tmp_path, url, kafka.settings(f"outage-{uuid.uuid4().hex[:8]}."), *options))
        return made[-1]

    yield begin
    for running in made:
        running.channel.close()
        running.process.kill()
        running.process.wait(10)
        assert PASSWORD not in running.log.read_text()


@pytest.mark.kafka
def test_a_service_waits_for_its_database_and_goes_on_by_itself(
    server: PostgresContainer, url: str, start: Callable[..., Running]
) -> None:
    database = f"database (127.0.0.1:{server.container.port}/{url.rsplit('/', 1)[1]})"
    server.container.stop()
    running = start(url)
    assert not running.serving()
    assert running.waits_for()[database] == "Connection refused"
    assert f"the service is not ready, it waits for start: wiring; {database}: Connection refused" in str(
        running.refusal()
    )

    server.container.start()
    until(running.serving, what="it is ready once the database is there")
    assert running.waits_for() == {}
    running.ask()

    server.container.kill()
    refused = running.refusal()
    assert (refused.where, refused.remedy) == (database, "It is tried again by itself")
    until(lambda: not running.serving(), what="it is not ready without its database")
    assert "refused" in running.waits_for()[database]
    server.container.start()
    until(running.serving, what="it is ready again")
    running.ask()

    server.container.kill()  # while nobody asks
    until(lambda: not running.serving(), what="an idle service notices it too")
    server.container.start()
    until(running.serving, what="it is ready again")
    assert running.process.poll() is None


@pytest.mark.kafka
def test_a_background_task_begins_anew_when_its_database_is_back(
    server: PostgresContainer, url: str, start: Callable[..., Running]
) -> None:
    running = start(url, "--tell")
    until(running.serving, what="it is ready")
    server.container.kill()
    until(lambda: not running.serving(), what="it is not ready")
    server.container.start()
    until(running.serving, what="it is ready again")
    running.ask()
    until(lambda: list(running.status().facts) == ["1 jobs"], what="the task looks again")
    assert running.process.poll() is None


@pytest.mark.kafka
def test_a_service_that_waits_for_its_database_can_be_stopped(
    server: PostgresContainer, url: str, start: Callable[..., Running]
) -> None:
    server.container.stop()
    running = start(url)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert "Traceback" not in running.log.read_text()


@pytest.mark.kafka
def test_a_wrong_password_is_said_and_waited_for(url: str, start: Callable[..., Running]) -> None:
    """Whoever sets up the database may come later; nothing else tells a wrong password from one
    that is not set yet.
    """
    running = start(url.replace(PASSWORD, "another"))
    assert 'password authentication failed for user "penstock"' in running.waits_for().values()
