"""The relay without Kafka: whose turn it is, and what is not published twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from penstock.contracts.events import AuditStarted
from penstock.runtime.outbox import IN_FLIGHT, LEASE, LOOK_EVERY_S, Relay
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.testing.threads import in_a_thread
from penstock.testing.wait import until


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: str, clock: Clock) -> Iterator[Store]:
    opened = Store.open(database, clock=clock)
    with in_a_thread(opened.transaction()) as effect:
        for number in range(3):
            effect.publish(AuditStarted(audit_id=str(number), pipeline="p", digest="d", started_at=clock()))
    yield opened
    opened.close()


def audit(row: OutboxRow) -> str:
    return AuditStarted.model_validate_json(row.value).audit_id


def left(store: Store) -> int:
    with in_a_thread(store.snapshot()) as session:
        return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


async def test_a_relay_whose_lease_ran_out_in_a_batch_leaves_the_rest_to_the_other(
    store: Store, clock: Clock
) -> None:
    """Else the two would publish the same rows into one another."""
    published: list[tuple[str, str]] = []

    async def by_second(row: OutboxRow) -> None:
        published.append(("second", audit(row)))

    second = Relay(store, by_second, owner="second")

    async def by_first(row: OutboxRow) -> None:
        published.append(("first", audit(row)))
        assert await second.drain() == 0, "the lease holds"
        clock.now += LEASE + timedelta(seconds=1)
        assert await second.drain() == 3

    first = Relay(store, by_first, owner="first")
    assert await first.drain() == 1
    assert published == [("first", "0"), ("second", "0"), ("second", "1"), ("second", "2")]
    assert left(store) == 0


async def test_a_slow_relay_renews_its_lease_before_a_row_could_outlive_it(
    store: Store, clock: Clock
) -> None:
    published: list[str] = []

    async def by_second(row: OutboxRow) -> None:
        pytest.fail("the first relay works")

    second = Relay(store, by_second, owner="second")

    async def slowly(row: OutboxRow) -> None:
        published.append(audit(row))
        clock.now += IN_FLIGHT
        assert await second.drain() == 0

    first = Relay(store, slowly, owner="first")
    assert await first.drain() == 3
    assert published == ["0", "1", "2"]


async def test_a_relay_that_ends_leaves_the_next_one_nothing_to_wait_for(store: Store) -> None:
    async def publish(row: OutboxRow) -> None: ...

    first, second = Relay(store, publish, owner="first"), Relay(store, publish, owner="second")
    assert await first.drain() == 3
    with in_a_thread(store.transaction()) as effect:
        effect.publish(AuditStarted(audit_id="3", pipeline="p", digest="d", started_at=store.clock()))
    assert await second.drain() == 0, "the lease holds"
    await first.resign()
    assert await second.drain() == 1


async def test_the_relay_that_leads_publishes_what_others_commit_within_a_second(
    database: str, store: Store
) -> None:
    """Their commits wake nobody here."""
    published: list[str] = []

    async def publish(row: OutboxRow) -> None:
        published.append(audit(row))

    running = asyncio.create_task(Relay(store, publish, owner="first").run())
    try:
        await asyncio.to_thread(until, lambda: len(published) == 3, what="all are published")
        other = Store.open(database, clock=store.clock)
        with in_a_thread(other.transaction()) as effect:
            effect.publish(
                AuditStarted(audit_id="other's", pipeline="p", digest="d", started_at=store.clock())
            )
        other.close()
        began = time.monotonic()
        await asyncio.to_thread(until, lambda: published[3:] == ["other's"], what="the other's is published")
        assert time.monotonic() - began < LOOK_EVERY_S / 2
    finally:
        running.cancel()
