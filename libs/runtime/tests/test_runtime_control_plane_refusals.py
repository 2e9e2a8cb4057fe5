"""Messages that the control plane refuses, waits with or tries again, against a real broker."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from control_plane import AUDITS, DLQ, QUICK, Applied, Topics, audits, headers, running, started
from sqlalchemy import select

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.events import AuditStarted, encode
from penstock.runtime.broker import ControlPlane, Retries, Router
from penstock.runtime.cloud_events import Received
from penstock.runtime.kafka import clients
from penstock.runtime.letter_box import LINGER_S
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.status import StatusServicer
from penstock.runtime.store import Effect, Store
from penstock.status.v1 import status_pb2
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until_async as until

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("short_polls")]


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
