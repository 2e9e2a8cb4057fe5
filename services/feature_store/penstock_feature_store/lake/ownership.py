"""Ownership of the lake: one replica writes it, follows the records, and does what only one may do;
the others hand on to it the calls that only it can answer.

Two things are needed for it. The lock on the lake's folder is the fence: the kernel gives it to one
process of all that share the volume and takes it back the moment that process ends, however it
ends, so nobody writes who was replaced. The lease in the database is for replicas that by mistake
do not share the volume: without it each would own a lake with half of the records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import grpc
import structlog
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from penstock.contracts.errors import Conflict, Unavailable
from penstock.feature_store.v1.feature_store_pb2_grpc import FeatureStoreServiceStub
from penstock.runtime import rpc
from penstock.runtime.leases import drop_lease, holder_of, take_lease
from penstock.runtime.readiness import Readiness
from penstock.runtime.store import Effect, Store
from penstock_feature_store.lake import durable
from penstock_feature_store.lake.lake import Lake

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=15)
RENEW_EVERY_S = 5.0
LOOK_EVERY_S = 0.5
THING = "lake"
# A replica's name in a call's metadata: it is handed on once, never in a circle.
FORWARDED = "penstock-forwarded-by"
_AWAY = (SQLAlchemyError, Unavailable)  # the database


class Owner(BaseModel, frozen=True):
    """The owner of the lake, as its folder tells the others; `address`: host:port where they reach
    it.
    """

    replica: str
    address: str


class Ownership:
    """Takes, keeps and releases ownership for this replica. Used from the event loop."""

    def __init__(
        self, lake: Lake, store: Store, this: Owner, readiness: Readiness, clock: Callable[[], datetime]
    ) -> None:
        self.this = this
        self.mine = False  # true when everything that belongs to it runs here
        self._lake = lake
        self._store = store
        self._readiness = readiness
        self._clock = clock
        self._path = lake.root / "owner.json"
        self._stood_by = False
        readiness.waits_for(THING, "taking it")

    async def run(self, begin: Callable[[], Awaitable[None]]) -> None:
        """Stands by until the lake is this replica's, begins, and keeps it until cancelled.

        Raises Conflict where another has it all the same, and what `begin` raises.
        """
        while True:
            if await self._take():
                break
            await asyncio.sleep(LOOK_EVERY_S)
        log.info("lake_owned", replica=self.this.replica, stood_by=self._stood_by)
        keeping = asyncio.create_task(self._keep())
        try:
            await begin()
            self.mine = True
            self._readiness.has(THING)
            if self._stood_by:
                self._readiness.fact(THING, "owns the lake")
            await keeping
        finally:
            keeping.cancel()

    def other(self) -> Owner | None:
        """The last owner, if another than this replica; None if none is recorded on this volume."""
        try:
            owner = Owner.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None
        return None if owner.address == self.this.address else owner

    def release(self) -> None:
        """Ends ownership once nothing writes any more, so that the next owner need not wait for the lease
        to end. Blocks.
        """
        if self._lake.held:
            self.mine = False
            try:
                with self._store.transaction() as effect:
                    drop_lease(effect, THING, self.this.replica)
            except _AWAY as error:
                log.warning("lease_not_dropped", why=str(error))
            self._lake.__exit__()

    async def _take(self) -> bool:
        try:
            if not self._lake.held:
                await asyncio.to_thread(self._lake.__enter__)
            holder = await self._renew()
        except Conflict:
            await asyncio.to_thread(self._stands_by)
            return False
        except _AWAY as error:
            self._readiness.waits_for(THING, f"the database does not answer: {error}")
            return False
        if holder is not None:
            self._readiness.waits_for(
                THING,
                f"replica {holder}'s lease ends within {LEASE.seconds} s; if that replica lives, it does not"
                " share this volume",
            )
            return False
        await asyncio.to_thread(durable.write_bytes, self._path, self.this.model_dump_json().encode())
        return True

    def _stands_by(self) -> None:
        self._stood_by = True
        owner = self.other()
        self._readiness.has(THING)
        self._readiness.fact(THING, f"stands by for replica {owner.replica}" if owner else "stands by")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                holder = await self._renew()
            except _AWAY as error:  # the lock holds meanwhile
                log.warning("lease_not_renewed", why=str(error))
                continue
            if holder is not None:
                raise Conflict(
                    f"replica {holder} owns a lake too",
                    where=str(self._lake.root),
                    remedy="Let all replicas share one volume whose locks hold between them",
                )

    async def _renew(self) -> str | None:
        """None when the lease is this replica's, else whose it is."""

        def renew(effect: Effect) -> str | None:
            taken = take_lease(effect, THING, self.this.replica, self._clock(), LEASE)
            return None if taken else holder_of(effect, THING)

        return await self._store.write(renew)


class Forwarding:
    """Hands calls on to the owner, over one channel that connects at the first call. Used from the
    event loop.
    """

    def __init__(self, ownership: Ownership) -> None:
        self.ownership = ownership
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def call(self, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The owner's answer, within the caller's deadline. Raises what it raises, and Unavailable
        while there is no owner.
        """
        owner = self.ownership.other()
        if owner is None or any(key == FORWARDED for key, _ in context.invocation_metadata() or ()):
            raise Unavailable(
                "no replica owns the lake at the moment, one is taking it over", remedy="Try again"
            )
        if owner.address not in self._channels:
            self._channels[owner.address] = rpc.connect(owner.address)
        stub = FeatureStoreServiceStub(self._channels[owner.address])
        return await getattr(stub, method)(
            request, timeout=context.time_remaining(), metadata=[(FORWARDED, self.ownership.this.replica)]
        )

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
