"""The relay: what a transaction decided to publish goes to Kafka, in order, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from confluent_kafka import KafkaException
from sqlalchemy import delete, func, select

from penstock.contracts import metrics
from penstock.contracts.errors import Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.leases import drop_lease, take_lease
from penstock.runtime.messaging import sent
from penstock.runtime.metrics import Reading, observed
from penstock.runtime.store import Effect, Store, Wish
from penstock.runtime.tables import OutboxRow

log = structlog.get_logger(__name__)

BATCH = 100  # rows of the outbox that are read at once
# Besides being woken: for rows of other replicas, whose commits wake nobody here. Sooner while this
# relay leads, or would.
LOOK_EVERY_S, LOOK_SOON_S = 5.0, 0.5
LEASE = timedelta(seconds=15)
# So much of the lease is left when a row is handed to Kafka: longer than it may be on its way
# (`broker.DELIVERY_MS`), so that nothing of ours arrives when another relay works, and clocks may
# differ by two seconds.
IN_FLIGHT = timedelta(seconds=12)


class Relay:
    """Publishes one store's outbox. One relay per database works at a time (a lease); the others stand by.

    Ids rise in the order of the commits, as the store has one writer at a time: no row appears
    behind one that was published. A row is deleted after Kafka acknowledged it. A crash between the
    two publishes it again under the same event id: at least once. While Kafka or the database is
    away rows wait in the database and nothing is lost.
    """

    def __init__(self, store: Store, publish: Callable[[OutboxRow], Awaitable[None]], *, owner: str) -> None:
        self._store = store
        self._publish = publish
        self._owner = owner
        self._woken = asyncio.Event()
        self._lease_until = store.clock()
        self._wanted = False  # rows wait, or some were published a moment ago
        self._published: set[int] = set()  # acknowledged by Kafka, and not deleted yet

    async def run(self) -> None:
        """Until cancelled. Raises KafkaException when the producer is broken for good."""
        loop = asyncio.get_running_loop()

        def heard(wish: Wish) -> None:
            if wish == "publish" and not loop.is_closed():
                loop.call_soon_threadsafe(self._woken.set)

        self._store.on_commit(heard)
        backoff = Backoff(first=0.2, longest=5.0)
        with observed(metrics.OUTBOX, self._waiting), observed(metrics.OUTBOX_AGE, self._age):
            while True:
                self._woken.clear()
                try:
                    while await self.drain():
                        backoff.reset()
                except KafkaException as error:
                    if error.args[0].fatal():
                        raise
                    delay = backoff.next()
                    log.warning("outbox_waits", why=str(error.args[0].str()), again_in_s=round(delay, 1))
                    await asyncio.sleep(delay)
                    continue
                except Unavailable as error:
                    log.warning("outbox_waits", why=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SOON_S if self._wanted else LOOK_EVERY_S):
                        await self._woken.wait()

    async def resign(self) -> None:
        """The next relay need not wait for the lease to end. To be called when `drain` has come to
        its end: nothing is on its way then.
        """
        await self._store.write(lambda effect: drop_lease(effect, "outbox", self._owner))
        self._lease_until = self._store.clock()

    async def drain(self) -> int:
        """Publishes up to one batch; how many rows. What was acknowledged before an error is
        deleted before the error is raised.

        Raises KafkaException, and Unavailable where the database does not take part; what Kafka
        acknowledged is not published again then.
        """
        await self._delete_published()
        rows = bool(await self._next(1))
        self._wanted = rows or self._lease_until > self._store.clock()
        if not rows or not await self._leads():
            return 0
        count = 0
        try:
            for row in await self._next(BATCH):
                if not await self._leads():
                    break
                sent(row.topic)
                await self._publish(row)
                self._published.add(row.id)
                count += 1
        finally:
            await self._delete_published()
        return count

    async def _next(self, limit: int) -> Sequence[OutboxRow]:
        first = select(OutboxRow).order_by(OutboxRow.id).limit(limit)
        return await self._store.read(lambda session: session.scalars(first).all())

    async def _delete_published(self) -> None:
        if done := set(self._published):
            old = delete(OutboxRow).where(OutboxRow.id.in_(done))
            await self._store.write(lambda effect: effect.session.execute(old))
            self._published -= done

    def _waiting(self) -> list[Reading]:
        with self._store.snapshot() as session:
            return [(float(session.scalar(select(func.count(OutboxRow.id))) or 0), {})]

    def _age(self) -> list[Reading]:
        with self._store.snapshot() as session:
            oldest = session.scalar(select(OutboxRow.occurred_at).order_by(OutboxRow.id).limit(1))
        return [((self._store.clock() - oldest).total_seconds() if oldest else 0.0, {})]

    async def _leads(self) -> bool:
        if self._lease_until - self._store.clock() > IN_FLIGHT:
            return True
        if until := await self._store.write(self._lead):
            self._lease_until = until
        return until is not None

    def _lead(self, effect: Effect) -> datetime | None:
        now = self._store.clock()  # not of the call: it may have waited for another writer
        return now + LEASE if take_lease(effect, "outbox", self._owner, now, LEASE) else None
