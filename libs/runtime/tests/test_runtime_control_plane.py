"""The control plane against a real broker: each of FastStream's faults is caused, and must not show."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from faststream.confluent import KafkaRouter
from kafka import KafkaAdminClient
from sqlalchemy import String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from structlog.testing import capture_logs

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.events import (
    AuditFailed,
    AuditStarted,
    Event,
    PipelineApplied,
    ReviewRequested,
    encode,
)
from penstock.contracts.topics import SHARED
from penstock.runtime import faststream_mends
from penstock.runtime.broker import ControlPlane, Retries, Router
from penstock.runtime.cloud_events import Received
from penstock.runtime.kafka import clients
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.letter_box import LINGER_S
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.status import StatusServicer
from penstock.runtime.store import Effect, Store
from penstock.runtime.tables import InboxRow, OutboxRow
from penstock.status.v1 import status_pb2
from penstock.testing.broker import EmbeddedKafka, Kafka
from penstock.testing.group import leading
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until_async as until

pytestmark = pytest.mark.kafka

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUICK = Retries(first=0.02, longest=0.1, patience=120.0)
TOPICS = [topic for topic in SHARED if topic.name in ("audits.v1", "pipelines.v1", "reviews.v1")]
AUDITS = "audits.v1"
DLQ = "audits.v1.g.dlq"


class Tables(DeclarativeBase):
    pass


class Applied(Tables):
    __tablename__ = "applied"
    number: Mapped[int] = mapped_column(primary_key=True)
    audit: Mapped[str] = mapped_column(String(64))


def started(audit: str, digest: str = "d") -> AuditStarted:
    """`digest` is the key."""
    return AuditStarted(audit_id=audit, pipeline="p", digest=digest, started_at=NOON)


def applied(pipeline: str, number: int = 1) -> PipelineApplied:
    return PipelineApplied(
        pipeline=pipeline, number=number, spec={}, text="", digest="d", applied_at=NOON, applied_by="me"
    )


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle consumer's poll is what each stop waits for, and so what most of these tests last."""
    for module in ("consumer", "replay"):
        monkeypatch.setattr(f"penstock.runtime.{module}.POLL_S", 0.1)


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    """A prefix of its own for each test."""
    made = kafka.settings(f"cp-{uuid.uuid4().hex[:8]}.")
    ensure_topics(made, TOPICS)
    return made


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store.open(database, Tables.metadata)
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(plane.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ClientFailed):
            await task


class Topics:
    """What a user of Kafka sees and does, with a plain client."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer = Producer(settings.client(linger_ms=0, partitioner="murmur2_random"))

    def send(self, *events: Event) -> None:
        for number, event in enumerate(events):
            headers = {
                "ce_type": event.ce_type(),
                "ce_id": f"{type(event).__name__}-{event.key}-{number}-{uuid.uuid4().hex}",
            }
            self.raw(event.topic, encode(event), headers, key=event.key)

    def raw(
        self, topic: str, value: bytes | None, headers: dict[str, Any] | None = None, key: str = "k"
    ) -> None:
        self._producer.produce(self._settings.topic(topic), value, key, headers=headers or {})
        assert self._producer.flush(10) == 0

    def read(self, topic: str) -> list[Message]:
        """All there is now."""
        full = self._settings.topic(topic)
        consumer = Consumer(self._settings.client(group_id="nobody", enable_auto_commit=False))
        try:
            if full not in consumer.list_topics(timeout=5).topics:
                return []
            _, end = consumer.get_watermark_offsets(TopicPartition(full, 0), timeout=5)
            consumer.assign([TopicPartition(full, 0, 0)])
            found: list[Message] = []
            while len(found) < end:
                found += consumer.consume(end, 0.2)
            return found
        finally:
            consumer.close()

    def committed(self, topic: str, group: str) -> int:
        consumer = Consumer(
            self._settings.client(group_id=self._settings.topic(group), enable_auto_commit=False)
        )
        try:
            [position] = consumer.committed([TopicPartition(self._settings.topic(topic), 0)], timeout=10)
            return int(position.offset)
        finally:
            consumer.close()


def headers(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers() or []}


@pytest.fixture
def topics(settings: KafkaSettings) -> Topics:
    return Topics(settings)


# -- what FastStream does by itself ----------------------------------------------------------------


async def test_no_message_is_committed_while_it_is_in_its_handler(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    topics.send(*[started(str(number)) for number in range(60)])
    router = Router("g", store)
    witness = Consumer(settings.client(group_id=settings.topic("g"), enable_auto_commit=False))
    early: list[str] = []
    done: list[int] = []

    @router.on(AuditStarted)
    async def on_audit_started(event: AuditStarted) -> None:
        await asyncio.sleep(0.02)  # FastStream polls again meanwhile
        [position] = await asyncio.to_thread(
            witness.committed, [TopicPartition(settings.topic(AUDITS), 0)], 10
        )
        if position.offset > int(event.audit_id):
            early.append(event.audit_id)
        done.append(int(event.audit_id))

    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: len(done) == 60)
        await until(lambda: topics.committed(AUDITS, "g") == 60)
    witness.close()
    assert early == []
    assert done == list(range(60))


async def test_a_message_that_comes_again_is_not_committed_with_another(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store, retries=QUICK)
    tries: list[str] = []
    away = True

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        tries.append(event.audit_id)
        if away:
            raise Unavailable("the feature store is away")

    router.on(ReviewRequested)(lambda event, effect: None)
    topics.send(started("1"))
    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: len(tries) >= 2)
        review = ReviewRequested(pipeline="p", digest="d", audit_id="1", gates=(), requested_at=NOON)
        topics.send(review)
        await until(lambda: topics.committed("reviews.v1", "g") == 1)
        assert topics.committed(AUDITS, "g") < 0
        away = False
        await until(lambda: topics.committed(AUDITS, "g") == 1)


async def test_a_fenced_consumer_ends_the_control_plane(
    settings: KafkaSettings, store: Store, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = functools.partialmethod(KafkaRouter.subscriber, group_instance_id="same")
    monkeypatch.setattr(KafkaRouter, "subscriber", static)

    def router() -> Router:
        made = Router("g", store)
        made.on(AuditStarted)(lambda event, effect: got.append(event.audit_id))
        return made

    got: list[str] = []
    topics.send(started("1"))
    async with running(ControlPlane("t", settings, [router()], store=store)) as first:
        await until(lambda: got == ["1"])
        async with running(ControlPlane("t", settings, [router()], store=store)):
            with pytest.raises(ClientFailed, match="fenced"):
                await asyncio.wait_for(asyncio.shield(first), 20)
            topics.send(started("2"))
            await until(lambda: got == ["1", "2"])


async def test_a_consumer_that_does_not_close_ends_the_control_plane(
    settings: KafkaSettings, store: Store, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = Router("g", store)
    got: list[str] = []
    router.on(AuditStarted)(lambda event, effect: got.append(event.audit_id))
    plane = ControlPlane("t", settings, [router], store=store)
    topics.send(started("1"))
    released = threading.Event()
    monkeypatch.setattr(faststream_mends, "STOP_S", 2.0)
    async with running(plane) as task:
        await until(lambda: got == ["1"])
        raw = plane.consumers[0].subscriber.consumer.consumer
        # librdkafka waits for what it calls: the poll has no end, nor would a close have one.
        raw.subscribe([settings.topic(AUDITS)], on_revoke=lambda *_: released.wait())
        plane.fail("a part failed")
        try:
            with pytest.raises(ClientFailed, match="a part failed"):
                await asyncio.wait_for(asyncio.shield(task), 15)
        finally:
            released.set()


async def test_a_consumer_that_stands_still_ends_the_control_plane(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store)
    got: list[str] = []
    router.on(AuditStarted)(lambda event, effect: got.append(event.audit_id))
    plane = ControlPlane("t", settings, [router], store=store)
    plane.watch_every_s, plane.stalled_looks = 0.25, 4
    topics.send(started("1"))
    async with running(plane) as task:
        await until(lambda: got == ["1"])
        [consumer] = plane.consumers
        raw = consumer.subscriber.consumer.consumer
        raw.pause(raw.assignment())
        topics.send(started("2"))
        with pytest.raises(ClientFailed, match="1 messages wait and none is taken"):
            await asyncio.wait_for(asyncio.shield(task), 20)


async def test_a_consumer_that_never_took_a_message_ends_the_control_plane(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store)
    router.on(AuditStarted)(lambda event, effect: None)
    plane = ControlPlane("t", settings, [router], store=store)
    plane.watch_every_s, plane.stalled_looks = 0.25, 4
    async with running(plane) as task:
        [consumer] = await until(lambda: plane.consumers)
        raw = (await until(lambda: consumer.subscriber.consumer)).consumer
        raw.pause(await until(raw.assignment))
        topics.send(started("1"))
        with pytest.raises(ClientFailed, match="1 messages wait and none is taken"):
            await asyncio.wait_for(asyncio.shield(task), 20)


async def test_a_consumer_that_tries_again_does_not_stand_still(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store, retries=Retries(first=3.0, longest=3.0, patience=2.0))
    got: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        if event.audit_id == "1":
            raise Unavailable("the feature store is away")
        got.append(event.audit_id)

    plane = ControlPlane("t", settings, [router], store=store)
    plane.watch_every_s, plane.stalled_looks = 0.4, 4
    topics.send(started("1"), started("2"))
    async with running(plane) as task:
        await until(lambda: got or task.done())
        assert set(got) == {"2"}
    assert [headers(letter)["dlq-reason"] for letter in topics.read(DLQ)] == ["the feature store is away"]


async def test_a_topic_that_the_group_left_out_is_read_after_all(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store)
    got: list[str] = []
    router.on(AuditStarted)(lambda event, effect: got.append("audit"))
    router.on(ReviewRequested)(lambda event, effect: got.append("review"))
    plane = ControlPlane("t", settings, [router], store=store)
    plane.look_at_groups_every_s = 0.5
    with (
        leading(settings, "g", router.topics, leaves_out=AUDITS, strategy="roundrobin"),
        capture_logs() as logs,
    ):
        async with running(plane):
            topics.send(
                started("1"),
                ReviewRequested(pipeline="p", digest="d", audit_id="1", gates=(), requested_at=NOON),
            )
            await until(lambda: len(got) == 2)
    assert got == ["review", "audit"]
    assert [entry["event"] for entry in logs].count("partitions_left_out") == 1  # and not again and again


async def test_poison_becomes_a_dead_letter_and_the_next_goes_on(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store, retries=QUICK)
    got: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        effect.session.add(Applied(number=int(event.audit_id), audit=event.audit_id))
        if event.audit_id == "2":
            raise Invalid("no such model", where="digest", remedy="Register it")
        if event.audit_id == "3":
            raise KeyError("a bug")
        got.append(event.audit_id)

    topics.send(*[started(str(number)) for number in range(1, 5)])
    topics.raw(AUDITS, b'{"broken', {"ce_type": AuditStarted.ce_type(), "ce_id": "x"})
    topics.raw(AUDITS, b"{}")
    topics.raw(
        AUDITS,
        b"\x00\xff",
        {"ce_type": AuditStarted.ce_type(), "content-type": "application/json", "odd": b"\xff"},
    )
    topics.raw(AUDITS, b"7", {"ce_type": "io.penstock.FromTheFuture.v1"})
    topics.raw(AUDITS, None, {"ce_type": AuditStarted.ce_type()})
    topics.send(started("5"))
    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: topics.committed(AUDITS, "g") == 10)
    assert [*dict.fromkeys(got)] == ["1", "4", "5"]  # one behind a dead letter may be tried twice
    letters = topics.read(DLQ)
    assert [(headers(letter)["dlq-offset"], headers(letter)["dlq-error"]) for letter in letters] == [
        ("1", "invalid"),
        ("2", "KeyError"),
        ("4", "invalid"),
        ("5", "invalid"),
        ("6", "invalid"),
    ]
    assert headers(letters[0])["dlq-reason"] == "digest: no such model. Register it"
    assert headers(letters[0])["ce_type"] == AuditStarted.ce_type()
    assert headers(letters[0])["dlq-topic"] == AUDITS
    assert letters[0].value() == encode(started("2"))
    assert letters[4].value() == b"\x00\xff"
    assert audits(store) == ["1", "4", "5"]


async def test_the_original_is_committed_after_its_dead_letter_was_acknowledged(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    admin = AdminClient(settings.client())
    full = settings.topic(DLQ)
    for made in admin.create_topics([NewTopic(full, 1, 1, config={"max.message.bytes": "1"})]).values():
        made.result(10)
    router = Router("g", store, retries=QUICK)

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        if event.audit_id == "1":
            raise Invalid("poison")
        effect.session.add(Applied(number=int(event.audit_id), audit=event.audit_id))

    topics.send(started("1"), started("2"), started("3", digest="another"))
    plane = ControlPlane("t", settings, [router], store=store)
    async with running(plane):
        await until(
            lambda: any("dead letters wait" in fact for fact in plane.readiness.facts)
        )  # Kafka refuses it each time
        await until(lambda: audits(store) == ["3"])  # one behind it, of its key, has no effect
        assert topics.committed(AUDITS, "g") <= 0
        wider = ConfigEntry("max.message.bytes", "1000000", incremental_operation=AlterConfigOpType.SET)
        for altered in admin.incremental_alter_configs(
            [ConfigResource(ConfigResource.Type.TOPIC, full, incremental_configs=[wider])]
        ).values():
            altered.result(10)
        await until(lambda: audits(store) == ["2", "3"])
        await until(lambda: topics.committed(AUDITS, "g") == 3)
        await until(lambda: not plane.readiness.facts)
    assert len(topics.read(DLQ)) == 1


async def test_dead_letters_in_a_row_are_made_durable_together(
    settings: KafkaSettings, store: Store, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[int] = []

    class Counted(Producer):  # type: ignore[misc]
        def flush(self, *within: float) -> int:
            flushes.append(len(self))
            return int(super().flush(*within))

    monkeypatch.setattr(clients, "Producer", Counted)
    router = Router("g", store, retries=QUICK)

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        if event.audit_id != "150":
            raise Invalid("forged")
        effect.session.add(Applied(number=1, audit=event.audit_id))

    topics.send(*[started(str(number)) for number in range(300)])
    began = time.monotonic()
    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: topics.committed(AUDITS, "g") == 300)
    assert audits(store) == ["150"]
    letters = [headers(letter)["dlq-offset"] for letter in topics.read(DLQ)]
    assert letters == [str(number) for number in range(300) if number != 150]
    assert len([count for count in flushes if count]) <= 10 + (time.monotonic() - began) / LINGER_S
    router = Router("h")
    router.on_replay(AuditStarted)(router_refuses)
    flushes.clear()
    began = time.monotonic()
    async with running(ControlPlane("t", settings, [router])):
        await asyncio.wait_for(router.caught_up(AUDITS), 30)
        assert len(topics.read("audits.v1.h.dlq")) == 300
    assert len([count for count in flushes if count]) <= 10 + (time.monotonic() - began) / LINGER_S


def router_refuses(event: AuditStarted) -> None:
    raise Invalid("forged")


def audits(store: Store) -> list[str]:
    with in_a_thread(store.snapshot()) as session:
        return [*session.scalars(select(Applied.audit).order_by(Applied.number))]


async def test_what_may_pass_is_retried_in_order(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store, retries=QUICK)
    tries: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        tries.append(event.audit_id)
        effect.session.add(Applied(number=len(tries), audit=event.audit_id))
        if event.audit_id in ("1", "3") and tries.count(event.audit_id) < 4:
            raise Unavailable("the feature store is away")

    topics.send(*[started(str(number)) for number in range(6)])
    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: "5" in tries)
        await until(lambda: topics.committed(AUDITS, "g") == 6)
    assert tries == ["0", "1", "1", "1", "1", "2", "3", "3", "3", "3", "4", "5"]
    with in_a_thread(store.snapshot()) as session:
        assert session.scalars(select(Applied.audit).order_by(Applied.number)).all() == [
            "0",
            "1",
            "2",
            "3",
            "4",
            "5",
        ]
    assert topics.read(DLQ) == []


async def test_what_waits_holds_back_its_own_key_alone_and_a_restart_doubles_nothing(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    came = False

    def router(got: list[str]) -> Router:
        made = Router("g", store, retries=Retries(first=0.02, longest=0.1, patience=60.0))

        @made.on(AuditStarted)
        def on_audit_started(event: AuditStarted, effect: Effect) -> None:
            if event.digest == "late" and not came:
                raise Unavailable("its version has not come in")
            effect.session.add(Applied(number=int(event.audit_id), audit=event.digest))
            effect.after_commit(lambda: got.append(event.audit_id))

        return made

    late = [started("0", "late"), started("2", "late"), started("5", "late")]
    topics.send(late[0], started("1", "a"), late[1], started("3", "b"), started("4", "a"), late[2])
    before, after = list[str](), list[str]()
    plane = ControlPlane("t", settings, [router(before)], store=store)
    async with running(plane):
        await until(lambda: before == ["1", "3", "4"])
        waits = "3 events wait; audits.v1/0/0 waits: Unavailable: its version has not come in"
        await until(lambda: waits in plane.readiness.facts)
        assert topics.committed(AUDITS, "g") <= 0, "it is read again after a crash"
    plane = ControlPlane("t", settings, [router(after)], store=store)
    async with running(plane):
        await until(lambda: [consumer.behind for consumer in plane.consumers])
        topics.send(started("6", "a"))
        await until(lambda: after == ["6"])
        came = True
        await until(lambda: after == ["6", "0", "2", "5"])
        await until(lambda: topics.committed(AUDITS, "g") == 7)
        await until(lambda: not plane.readiness.facts)
    with in_a_thread(store.snapshot()) as session:
        assert session.scalars(select(Applied.number).order_by(Applied.number)).all() == [*range(7)]
    assert topics.read(DLQ) == []


async def test_when_too_many_wait_the_next_stays_in_kafka_until_some_have_gone(
    settings: KafkaSettings, store: Store, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.runtime.consumer.MOST_WAITING", 3)
    router, got = Router("g", store, retries=QUICK), list[str]()

    @router.on(AuditStarted)
    async def on_audit_started(event: AuditStarted) -> None:
        if event.audit_id < "5" and not there:
            raise Unavailable("not yet")
        got.append(event.audit_id)

    topics.send(*[started(str(number), f"d{number}") for number in range(8)])
    there = False
    plane = ControlPlane("t", settings, [router], store=store)
    async with running(plane):
        await until(lambda: any(said.startswith("3 events wait") for said in plane.readiness.facts))
        for _ in range(200):
            assert plane.consumers[0].busy, "the watch would take it for a consumer that is broken"
            await asyncio.sleep(0.01)  # a look may fall between two deliveries of the one that is held
        there = True
        await until(lambda: len(got) == 8)
        assert min(got.index(str(late)) for late in (5, 6, 7)) >= 3, "they wait in Kafka behind three"
        await until(lambda: topics.committed(AUDITS, "g") == 8)
    assert sorted(got) == [str(number) for number in range(8)]
    assert topics.read(DLQ) == []


async def test_patience_ends_in_a_dead_letter(settings: KafkaSettings, store: Store, topics: Topics) -> None:
    router = Router("g", store, retries=Retries(first=0.02, longest=0.05, patience=1.2))
    got: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        if event.audit_id == "1":
            raise Unavailable("away for good")
        got.append(event.audit_id)

    topics.send(started("1"), started("2"))
    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: topics.committed(AUDITS, "g") == 2)
    assert set(got) == {"2"}
    [letter] = topics.read(DLQ)
    assert headers(letter)["dlq-error"] == "unavailable"
    assert int(headers(letter)["dlq-tries"]) > 2


@pytest.mark.parametrize("what", ["value", "key", "header"])
async def test_a_dead_letter_too_large_for_kafka_goes_without_its_event(
    what: str, settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store, retries=QUICK)
    got: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        got.append(event.audit_id)

    large = "x" * 999_000
    producer = Producer(settings.client(message_max_bytes=2_000_000))
    producer.produce(
        settings.topic(AUDITS),
        large if what == "value" else b"7",
        large if what == "key" else None,
        headers={"ce_type": AuditStarted.ce_type(), "ce_id": "x"}
        | ({"odd": large} if what == "header" else {}),
    )
    assert producer.flush(10) == 0
    topics.send(started("2"))
    async with running(ControlPlane("t", settings, [router], store=store)):
        await until(lambda: topics.committed(AUDITS, "g") == 2)
    assert set(got) == {"2"}
    [letter] = topics.read(DLQ)
    said = headers(letter)
    assert (letter.key(), letter.value(), said["ce_id"], said["dlq-offset"], said["dlq-error"]) == (
        None,
        b"",
        "x",
        "0",
        "invalid",
    )
    assert int(said["dlq-left-out"]) > 999_000


async def test_many_dead_letters_in_a_row_stop_nobody(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    router = Router("g", store, retries=QUICK)
    got: list[str] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        if event.audit_id != "20":
            raise KeyError("everything fails here")
        got.append(event.audit_id)

    topics.send(*[started(str(number)) for number in range(21)])
    plane = ControlPlane("t", settings, [router], store=store)
    async with running(plane):
        await until(lambda: set(got) == {"20"})
        await until(lambda: plane.readiness.ready)
        await until(lambda: topics.committed(AUDITS, "g") == 21)
    assert len(topics.read(DLQ)) == 20
    status = StatusServicer("t", plane.readiness, datetime.now(UTC))
    (said,) = (await status.GetStatus(status_pb2.GetStatusRequest(), cast(Any, None))).services[0].facts
    assert re.fullmatch(r"\d+ messages put aside within 15 minutes: penstock dead-letters list", said)


async def test_a_replay_tells_what_it_has_read_before_what_came_earlier_is_applied(
    settings: KafkaSettings, topics: Topics
) -> None:
    router, got, read = Router("g", retries=QUICK), list[str](), asyncio.Event()

    @router.on_replay(AuditStarted)
    async def on_audit_started(event: AuditStarted) -> None:
        await read.wait()
        got.append(event.audit_id)

    def reads(received: Received) -> None:
        if b'"1"' in (received.value or b""):
            read.set()

    router.read = reads
    topics.send(started("0", "a"), started("1", "a"))
    async with running(ControlPlane("t", settings, [router])):
        await until(lambda: got == ["0", "1"])


async def test_a_replay_that_waits_holds_back_its_own_key_alone(
    settings: KafkaSettings, topics: Topics
) -> None:
    router, got, there = Router("g", retries=QUICK), list[str](), asyncio.Event()

    @router.on_replay(AuditStarted)
    async def on_audit_started(event: AuditStarted) -> None:
        if event.digest == "late":
            await there.wait()
        got.append(event.audit_id)

    topics.send(started("0", "late"), started("1", "a"), started("2", "late"), started("3", "b"))
    plane = ControlPlane("t", settings, [router])
    async with running(plane):
        await until(lambda: got == ["1", "3"])
        topics.send(started("4", "a"))
        await until(lambda: got == ["1", "3", "4"])
        await until(lambda: "events wait: audits.v1 late" in plane.readiness.facts)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(router.caught_up(AUDITS), 1.5)
        there.set()
        await asyncio.wait_for(router.caught_up(AUDITS), 10)
        assert got == ["1", "3", "4", "0", "2"]
        await until(lambda: plane.readiness.ready and not plane.readiness.facts)


async def test_a_replay_leaves_out_what_cannot_be_applied_with_one_letter_however_often_it_is_read(
    settings: KafkaSettings, topics: Topics
) -> None:
    topics.raw(AUDITS, b'{"broken', {"ce_type": AuditStarted.ce_type(), "ce_id": "x"})
    topics.send(started("1"))
    topics.raw(AUDITS, b"\xff", {"ce_type": AuditStarted.ce_type()})
    for _ in range(2):  # each start reads all of it
        router, got = Router("g"), list[str]()
        router.on_replay(AuditStarted)(lambda event, got=got: got.append(event.audit_id))
        async with running(ControlPlane("t", settings, [router])):
            await asyncio.wait_for(router.caught_up(AUDITS), 30)
        assert got == ["1"]
    letters = [headers(letter) for letter in topics.read(DLQ)]
    assert [(said["dlq-topic"], said["dlq-partition"], said["dlq-offset"]) for said in letters] == [
        (AUDITS, "0", "0"),
        (AUDITS, "0", "2"),
    ]
    assert "Invalid JSON" in letters[0]["dlq-reason"]


# -- delivery --------------------------------------------------------------------------------------


async def test_what_is_published_is_a_cloud_event_in_order(
    settings: KafkaSettings, store: Store, topics: Topics
) -> None:
    async with running(ControlPlane("model_registry", settings, [], store=store)):
        for number in range(30):
            with in_a_thread(store.transaction()) as effect:
                effect.publish(started(str(number)))
        await until(lambda: not _count(store, OutboxRow))
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
    assert not _count(store, OutboxRow)


async def test_one_relay_works_at_a_time(settings: KafkaSettings, store: Store, topics: Topics) -> None:
    first = ControlPlane("t", settings, [], store=store, replica="0")
    second = ControlPlane("t", settings, [], store=store, replica="1")
    async with running(first), running(second):
        for number in range(30):
            with in_a_thread(store.transaction()) as effect:
                effect.publish(started(str(number)))
            await asyncio.sleep(0)  # the relays' turn
        await until(lambda: not _count(store, OutboxRow))
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
                await until(lambda: _count(store, Applied) >= count and not _count(store, OutboxRow))
            else:
                await until(lambda: _count(store, Applied) > 5 and _count(store, OutboxRow))
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
    assert _count(store, InboxRow) == count


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


def _count(store: Store, table: type[DeclarativeBase]) -> int:
    with in_a_thread(store.snapshot()) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
