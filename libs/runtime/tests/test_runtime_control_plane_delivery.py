"""Events that the control plane publishes and reads anew, against a real broker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from control_plane import AUDITS, NOON, TOPICS, Applied, Topics, applied, count_of, headers, running, started
from kafka import KafkaAdminClient
from sqlalchemy import select

from penstock.contracts.events import AuditFailed, AuditStarted, PipelineApplied, ReviewRequested, encode
from penstock.runtime.broker import ControlPlane, Router
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Effect, Store
from penstock.runtime.tables import InboxRow, OutboxRow
from penstock.testing.broker import EmbeddedKafka, Kafka
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until_async as until

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("short_polls")]


async def test_what_is_published_is_a_cloud_event_in_order(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    async with running(ControlPlane("model_registry", settings, [], store=store)):
        for number in range(30):
            with in_a_thread(store.transaction()) as effect:
                effect.publish(started(str(number)))
        await until(lambda: not count_of(store, OutboxRow))
    found = topics.read(AUDITS)
    assert [message.value() for message in found] == [encode(started(str(number))) for number in range(30)]
    said = headers(found[0])
    assert found[0].key() == b"d"
    assert said.pop("ce_id") != headers(found[1])["ce_id"]
    assert datetime.fromisoformat(said.pop("ce_time")).tzinfo is not None
    said.pop("correlation_id", None)
    assert said == {
        "ce_specversion": "1.0",
        "ce_source": "/penstock/model_registry",
        "ce_type": "io.penstock.AuditStarted.v1",
        "ce_subject": "d",
        "content-type": "application/json",
    }


async def test_stopping_flushes_what_is_decided(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    plane = ControlPlane("t", settings, [], store=store)
    async with running(plane):
        with in_a_thread(store.transaction()) as effect:
            effect.publish(started("1"))
        await until(lambda: plane.readiness.ready and len(topics.read(AUDITS)) == 1)
        with in_a_thread(store.transaction()) as effect:
            effect.publish(started("2"))
    assert {message.value() for message in topics.read(AUDITS)} == {
        encode(started("1")),
        encode(started("2")),
    }  # at least once each
    assert not count_of(store, OutboxRow)


async def test_one_relay_works_at_a_time(settings: KafkaSettings, store: Store, topics: Topics) -> None:
    first = ControlPlane("t", settings, [], store=store, replica="0")
    second = ControlPlane("t", settings, [], store=store, replica="1")
    async with running(first), running(second):
        for number in range(30):
            with in_a_thread(store.transaction()) as effect:
                effect.publish(started(str(number)))
            await asyncio.sleep(0)  # the relays' turn
        await until(lambda: not count_of(store, OutboxRow))
    assert [message.value() for message in topics.read(AUDITS)] == [
        encode(started(str(number))) for number in range(30)
    ]


async def test_a_topic_that_comes_later_is_read_from_its_beginning(kafka: Kafka, store: Store) -> None:
    late = kafka.settings(f"cp-{uuid.uuid4().hex[:8]}.")
    router = Router("g", store)
    got: list[str] = []
    replayed: list[str] = []
    router.on(AuditStarted)(lambda event, effect: got.append(event.audit_id))
    router.on_replay(PipelineApplied)(lambda event: replayed.append(event.pipeline))
    async with running(ControlPlane("t", late, [router], store=store)):
        with in_a_thread(store.transaction()) as effect:
            effect.publish(started("1"))
            effect.publish(applied("p"))
        await asyncio.to_thread(ensure_topics, late, TOPICS)
        await until(lambda: got == ["1"] and replayed == ["p"])


async def test_several_topics_and_types_in_one_router(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store)
    got: list[str] = []

    @router.on(AuditStarted, AuditFailed)
    def on_audit(event: AuditStarted | AuditFailed, effect: Effect) -> None:
        got.append(type(event).__name__)

    @router.on(ReviewRequested)
    def on_review_requested(event: ReviewRequested, effect: Effect) -> None:
        got.append(type(event).__name__)

    async with running(ControlPlane("t", settings, [router], store=store)):
        topics.send(
            started("1"),
            ReviewRequested(pipeline="p", digest="d", audit_id="1", gates=(), requested_at=NOON),
            AuditFailed(audit_id="1", pipeline="p", digest="d", reason="", remedy="", failed_at=NOON),
        )
        await until(lambda: len(got) == 3)
    assert sorted(got) == ["AuditFailed", "AuditStarted", "ReviewRequested"]


async def test_a_replay_reads_all_and_goes_on(settings: KafkaSettings, store: Store, topics: Topics) -> None:
    topics.send(applied("a"), applied("b"), applied("a", 2))
    topics.raw("pipelines.v1", b"broken", {"ce_type": PipelineApplied.ce_type()})
    topics.raw("pipelines.v1", None, {})
    for _ in range(2):  # at each start, whatever an earlier life has read
        router = Router("g")
        state: dict[str, int] = {}

        async def keep(event: PipelineApplied, state: dict[str, int] = state) -> None:
            state[event.pipeline] = event.number
            if event.pipeline == "c":
                raise KeyError("this one is left out")

        router.on_replay(PipelineApplied)(keep)
        async with running(ControlPlane("t", settings, [router])):
            await asyncio.wait_for(router.caught_up("pipelines.v1"), 20)
            assert {key: state[key] for key in ("a", "b")} == {"a": 2, "b": 1}
            topics.send(applied("c"), applied("d"))
            await until(lambda state=state: "d" in state)  # type: ignore[misc]


async def test_a_replay_knows_its_end_from_the_start(
    settings: KafkaSettings, store: Store, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be told it by fetches that come back empty costs half a second for each topic, in turn."""
    take = Reader.take
    monkeypatch.setattr(Reader, "take", lambda *given: take(*given)._replace(ends={}))
    topics.send(applied("a"))
    router = Router("g")
    seen: list[str] = []

    @router.on_replay(PipelineApplied)
    async def keep(event: PipelineApplied) -> None:
        seen.append(event.pipeline)

    @router.on_replay(AuditStarted)
    async def none(event: AuditStarted) -> None:
        seen.append(event.audit_id)

    async with running(ControlPlane("t", settings, [router])):
        for topic in router.replayed_topics:
            await asyncio.wait_for(router.caught_up(topic), 20)
    assert seen == ["a"]


def test_topics_are_made_by_one_request(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    create = KafkaAdminClient.create_topics

    def counted(self: KafkaAdminClient, topics: list[Any]) -> Any:
        made.append(len(topics))
        return create(self, topics)

    monkeypatch.setattr(KafkaAdminClient, "create_topics", counted)
    settings = kafka.settings(f"cp-{uuid.uuid4().hex[:8]}.")
    ensure_topics(settings, TOPICS[:1])
    for _ in range(2):
        ensure_topics(settings, TOPICS)
    assert made == [1, len(TOPICS) - 1]


SERVICE = """
    import asyncio, sys
    sys.path.insert(0, sys.argv[3])
    from plane_tables import *

    async def main(prefix, bootstrap, url):
        store = Store.open(url, Tables.metadata)
        router = Router("g", store)

        @router.on(AuditStarted)
        async def on_audit_started(event):
            await asyncio.sleep(0.002)  # a handler's work, long enough to be killed in
            name = event.audit_id

            def write(effect):
                effect.session.add(Applied(audit=name))
                effect.publish(
                    ReviewRequested(pipeline="p", digest=name, audit_id=name, gates=(), requested_at=NOON)
                )

            return write

        kafka = KafkaSettings(bootstrap_servers=bootstrap, topic_prefix=prefix)
        await ControlPlane("t", kafka, [router], store=store).run()

    asyncio.run(main(*sys.argv[1:3], sys.argv[4]))
"""
SHARED_CODE = """
    from datetime import UTC, datetime
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
    from penstock.contracts.events import AuditStarted, ReviewRequested
    from penstock.runtime.broker import ControlPlane, Router
    from penstock.runtime.settings import KafkaSettings
    from penstock.runtime.store import Store

    NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

    class Tables(DeclarativeBase):
        pass

    class Applied(Tables):
        __tablename__ = "applied"
        number: Mapped[int] = mapped_column(primary_key=True)
        audit: Mapped[str]
"""


async def test_kill_9_between_effect_and_publish_loses_and_doubles_nothing(
    settings: KafkaSettings, store: Store, database: str, topics: Topics, tmp_path: Path
) -> None:
    """Killed while events are applied and wait to be published; in the end each was applied once,
    and published under one id each.
    """
    count = 40
    (tmp_path / "plane_tables.py").write_text(textwrap.dedent(SHARED_CODE))
    (tmp_path / "service.py").write_text(textwrap.dedent(SERVICE))
    topics.send(*[started(str(number)) for number in range(count)])

    def start() -> subprocess.Popen[bytes]:
        arguments = [settings.topic_prefix, settings.bootstrap_servers, str(tmp_path), database]
        return subprocess.Popen([sys.executable, str(tmp_path / "service.py"), *arguments])

    for last in (False, True):
        service = start()
        try:
            if last:
                await until(lambda: count_of(store, Applied) >= count and not count_of(store, OutboxRow))
            else:
                await until(lambda: count_of(store, Applied) > 5 and count_of(store, OutboxRow))
                os.kill(service.pid, signal.SIGKILL)
        finally:
            service.kill()
            service.wait()
    with in_a_thread(store.snapshot()) as session:
        assert session.scalars(select(Applied.audit).order_by(Applied.number)).all() == [
            str(number) for number in range(count)
        ]
    published = {headers(message)["ce_id"]: message.value() for message in topics.read("reviews.v1")}
    assert len(published) == count
    assert len(set(published.values())) == count
    assert count_of(store, InboxRow) == count


@pytest.mark.slow
async def test_it_works_through_kafkas_absence(store: Store) -> None:
    """Kafka comes after the service, is killed and comes again: what was decided meanwhile is
    published, what comes is applied.
    """
    with EmbeddedKafka() as broker:
        settings = broker.settings("cp.")
        ensure_topics(settings, TOPICS)
        broker.stop()
        router = Router("g", store)
        got: list[str] = []
        router.on(AuditStarted)(lambda event, effect: got.append(event.audit_id))
        plane = ControlPlane("t", settings, [router], store=store)
        async with running(plane) as task:
            with in_a_thread(store.transaction()) as effect:
                effect.publish(started("1"))
            await until(lambda: [wait.thing for wait in plane.readiness.waiting] == ["kafka"])
            await asyncio.to_thread(broker.start)
            await until(lambda: got == ["1"])
            await until(lambda: plane.readiness.ready)
            await asyncio.to_thread(broker.kill)
            with in_a_thread(store.transaction()) as effect:
                effect.publish(started("2"))
            await until(lambda: not plane.readiness.ready)
            await asyncio.to_thread(broker.start)
            await until(lambda: got == ["1", "2"])
            await until(lambda: plane.readiness.ready)
            assert not task.done()
