"""The control plane's consumers against a real broker: each of FastStream's faults is caused, and must not
show.
"""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest
from confluent_kafka import Consumer, TopicPartition
from control_plane import AUDITS, DLQ, NOON, QUICK, Topics, headers, running, started
from faststream.confluent import KafkaRouter
from structlog.testing import capture_logs

from penstock.contracts.errors import Unavailable
from penstock.contracts.events import AuditStarted, ReviewRequested
from penstock.runtime import faststream_mends
from penstock.runtime.broker import ControlPlane, Retries, Router
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Effect, Store
from penstock.testing.group import leading
from penstock.testing.wait import until_async as until

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("short_polls")]


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
