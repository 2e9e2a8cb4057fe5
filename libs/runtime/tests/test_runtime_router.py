"""Router: what a message becomes, without Kafka."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from sqlalchemy import String, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.errors import DeadlineExceeded, Invalid, NotFound, Unavailable
from penstock.contracts.events import AuditFailed, AuditStarted, PipelineApplied, encode
from penstock.packages.keys import Keys
from penstock.runtime.cloud_events import Received
from penstock.runtime.pipelines import AppliedPipelines
from penstock.runtime.router import Retries, Router, may_pass
from penstock.runtime.store import Effect, Store, Write
from penstock.runtime.tables import OutboxRow
from penstock.testing import packages as sample
from penstock.testing.plugin import Databases
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until_async as until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Tables(DeclarativeBase):
    pass


class Seen(Tables):
    __tablename__ = "seen"
    audit: Mapped[str] = mapped_column(String(64), primary_key=True)
    times: Mapped[int]


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store.open(database, Tables.metadata)
    yield opened
    opened.close()


def received(
    audit: str = "1", *, event_id: str = "e1", topic: str = "audits.v1", **changed: object
) -> Received:
    event = AuditStarted(audit_id=audit, pipeline="p", digest="d", started_at=NOON)
    values: dict[str, object] = {
        "event_type": AuditStarted.ce_type(),
        "headers": {},
        "value": encode(event),
        **changed,
    }
    return Received(topic, 0, 0, event_id, **values)  # type: ignore[arg-type]


def counting(store: Store) -> Router:
    router = Router("g", store)

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        found = effect.session.get(Seen, event.audit_id) or Seen(audit=event.audit_id, times=0)
        found.times += 1
        effect.session.add(found)
        effect.publish(
            AuditFailed(
                audit_id=event.audit_id, pipeline="p", digest="d", reason="", remedy="", failed_at=NOON
            )
        )

    return router


def counts(store: Store) -> dict[str, int]:
    with in_a_thread(store.snapshot()) as session:
        return {row.audit: row.times for row in session.scalars(select(Seen))}


async def test_a_repeated_event_is_applied_once(store: Store) -> None:
    router = counting(store)
    for _ in range(3):
        await router.handle(received("1", event_id="a"))
    await router.handle(received("1", event_id="b"))
    assert counts(store) == {"1": 2}


async def test_what_a_handler_logs_says_which_event_and_pipeline(store: Store) -> None:
    router, said = Router("g", store), list[dict[str, object]]()

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        said.append(structlog.contextvars.get_contextvars())

    await router.handle(received("1", event_id="a"))
    assert said == [{"event_id": "a", "event_type": "AuditStarted", "pipeline": "p"}]
    assert structlog.contextvars.get_contextvars() == {}


async def test_a_handler_that_does_not_end_is_tried_again(store: Store) -> None:
    router = Router("g", store, retries=Retries(longest_run=0.05))

    @router.on(AuditStarted)
    async def on_audit_started(event: AuditStarted) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="handler has not ended within 0 s") as caught:
        await router.handle(received())
    assert may_pass(caught.value)


async def test_two_groups_apply_the_same_event_each(store: Store) -> None:
    got: list[str] = []
    for group in ("g", "h"):
        router = Router(group, store)
        router.on(AuditStarted)(lambda event, effect, group=group: got.append(group))
        await router.handle(received())
        await router.handle(received())
    assert got == ["g", "h"]


async def test_a_failing_handler_leaves_nothing_and_may_run_again(store: Store) -> None:
    router = Router("g", store)
    tries: list[int] = []

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        effect.session.add(Seen(audit=event.audit_id, times=1))
        effect.publish(event)
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("not yet")

    with pytest.raises(Unavailable):
        await router.handle(received())
    assert counts(store) == {}
    await router.handle(received())
    assert counts(store) == {"1": 1}
    with in_a_thread(store.snapshot()) as session:
        assert len(session.scalars(select(OutboxRow)).all()) == 1


async def test_another_replica_may_have_been_faster(store: Store) -> None:
    """Both passed the look into the inbox; the second one's effect is refused by the database."""
    router = Router("g", store)

    @router.on(AuditStarted)
    async def on_audit_started(event: AuditStarted) -> Write:
        assert await store.apply("g", "e1", lambda effect: None)
        return lambda effect: effect.session.add(Seen(audit=event.audit_id, times=1))

    assert not await router.handle(received())
    assert counts(store) == {}


async def test_an_event_of_a_newer_release_is_skipped(store: Store) -> None:
    await counting(store).handle(received(event_type="io.penstock.AuditReopened.v1", value=b"\xff"))
    assert counts(store) == {}


async def test_an_event_that_nobody_here_wants_and_a_tombstone_are_skipped(store: Store) -> None:
    await counting(store).handle(received(event_type=AuditFailed.ce_type()))
    await counting(store).handle(received(value=None))
    assert counts(store) == {}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (received(event_type=None), "audits.v1/0/0: no ce_type header"),
        (received(value=b"{"), "Invalid JSON"),
        (received(value=b"[]"), "should be an object"),
        (received(value=b'{"audit_id": "1"}'), "Field required at pipeline"),
        (received(topic="reviews.v1"), "AuditStarted belongs on audits.v1"),
    ],
)
async def test_what_is_no_event_says_why(store: Store, bad: Received, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        await counting(store).handle(bad)


async def test_an_unknown_field_of_a_newer_producer_is_no_error(store: Store) -> None:
    value = encode(AuditStarted(audit_id="1", pipeline="p", digest="d", started_at=NOON)).replace(
        b"{", b'{"new": 1, ', 1
    )
    await counting(store).handle(received(value=value))
    assert counts(store) == {"1": 1}


async def test_the_trace_goes_on_in_the_handler_and_in_what_it_publishes(store: Store) -> None:
    seen: list[str] = []
    router = Router("g", store)

    @router.on(AuditStarted)
    def on_audit_started(event: AuditStarted, effect: Effect) -> None:
        seen.append(trace.format_trace_id(trace.get_current_span().get_span_context().trace_id))
        effect.publish(event)
        effect.enqueue("audit", "1", {})

    await router.handle(received(headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}))
    assert seen == ["ab" * 16]
    with in_a_thread(store.snapshot()) as session:
        assert (session.scalars(select(OutboxRow.traceparent)).one() or "").startswith(f"00-{'ab' * 16}-")


async def test_a_replay_retries_what_may_pass_and_leaves_out_the_rest() -> None:
    router = Router("g", retries=Retries(first=0.001, longest=0.002))
    calls: list[str] = []
    letters: list[tuple[str, str, int]] = []

    async def reject(message: Received, error: Exception, tries: int) -> None:
        letters.append((message.place, type(error).__name__, tries))

    @router.on_replay(AuditStarted)
    def on_audit_started(event: AuditStarted) -> None:
        calls.append(event.audit_id)
        if event.audit_id == "later" and calls.count("later") < 3:
            raise Unavailable("not yet")
        if event.audit_id == "bug":
            raise KeyError

    for audit in ("later", "bug", "fine"):
        await router.replay(received(audit), reject)
    await router.replay(received(value=b"broken"), reject)
    await router.replay(received(topic="reviews.v1"), reject)
    await router.replay(received(value=None), reject)
    await router.replay(received(event_type=None), reject)
    assert calls == ["later", "later", "later", "bug", "fine"]
    assert letters == [
        ("audits.v1/0/0", "KeyError", 1),
        ("audits.v1/0/0", "Invalid", 1),
        ("reviews.v1/0/0", "Invalid", 1),
    ]


async def test_what_cannot_be_judged_for_want_of_a_key_waits_for_it(tmp_path: Path) -> None:
    """Without a trust store, and with one that the registry has not added its key to yet."""
    registry, keys = Keys(tmp_path / "registry"), Keys(tmp_path / "keys")
    registry.ensure()
    applied, letters = AppliedPipelines("g", keys), list[Exception]()
    router = applied.router
    assert router is not None
    router.retries = Retries(first=0.01, longest=0.02, patience=0.05)
    event = sample.applied(registry)
    message = Received(event.topic, 0, 0, "e", event.ce_type(), {}, encode(event))

    async def reject(_message: Received, error: Exception, _tries: int) -> None:
        letters.append(error)

    waiting = asyncio.create_task(router.replay(message, reject))
    for change, why in (
        (lambda: None, "there is no trust store"),
        (partial(keys.ensure, roles=["audit"]), "no key of role registry"),
    ):
        change()
        assert not (await asyncio.wait({waiting}, timeout=0.5))[0], "ten times its patience"
        await until(lambda why=why: why in router.why)  # type: ignore[misc]
    shutil.copy(tmp_path / "registry" / "trust.json", tmp_path / "keys")
    await asyncio.wait_for(waiting, 10)
    assert (applied.get("loans").number, letters) == (1, [])


def test_one_handler_for_an_event(store: Store) -> None:
    with pytest.raises(ValueError, match="AuditStarted has a handler in g"):
        counting(store).on(AuditStarted)(lambda event, effect: None)


def test_handlers_need_a_store() -> None:
    with pytest.raises(ValueError, match="has no store"):
        Router("g").on(AuditStarted)


def test_a_router_says_what_it_reads(store: Store) -> None:
    router = counting(store)
    router.on_replay(PipelineApplied)(lambda event: None)
    assert (router.topics, router.replayed_topics) == (("audits.v1",), ("pipelines.v1",))


class _Rpc(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


@pytest.mark.parametrize(
    ("error", "later"),
    [
        (Unavailable(""), True),
        (DeadlineExceeded(""), True),
        (NotFound(""), False),
        (Invalid(""), False),
        (_Rpc(grpc.StatusCode.UNAVAILABLE), True),
        (_Rpc(grpc.StatusCode.NOT_FOUND), False),
        (OperationalError("", {}, Exception("database is locked")), True),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (KeyError("bug"), False),
    ],
)
def test_retry_or_reject(error: Exception, later: bool) -> None:
    assert may_pass(error) is later


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # each example has a new database
@given(data=st.data(), ids=st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True))
async def test_any_redelivery_gives_the_effects_of_one_delivery(
    databases: Databases, data: st.DataObject, ids: list[int]
) -> None:
    """Repeats in any order, some deliveries failing at their first try: each event counts once, and
    is published once.
    """
    deliveries = data.draw(st.lists(st.sampled_from(ids), max_size=20)) + ids
    failing = data.draw(st.sets(st.sampled_from(ids)))
    with databases() as url:
        store = Store.open(url, Tables.metadata)
        router = counting(store)
        _, inner = router.handlers[AuditStarted.ce_type()]

        def sometimes(event: AuditStarted, effect: Effect) -> None:
            inner(event, effect)  # type: ignore[call-arg]
            if int(event.audit_id) in failing:
                failing.discard(int(event.audit_id))
                raise Unavailable("after its effect")

        router.handlers[AuditStarted.ce_type()] = (AuditStarted, sometimes)
        for number in deliveries:
            try:
                await router.handle(received(str(number), event_id=f"e{number}"))
            except Unavailable:
                await router.handle(received(str(number), event_id=f"e{number}"))
        assert counts(store) == {str(number): 1 for number in ids}
        with in_a_thread(store.snapshot()) as session:
            assert len(session.scalars(select(OutboxRow)).all()) == len(ids)
        store.close()
