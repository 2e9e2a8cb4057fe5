"""A lane to the hub: batch after batch, in order, each until the hub has it. While one is under way the
next are read, packed and sent behind it, and what the hub confirmed before is deleted.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

import structlog

from penstock.contracts.errors import PenstockError, Refused, Unavailable
from penstock.edge_gateway.v1 import hub_pb2
from penstock_edge_gateway.site.hub import LONGEST_S, Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.spool import Batch, Gap, Reason, Record
from penstock_edge_gateway.site.spool_file import Full

log = structlog.get_logger(__name__)

RECORDS: Final = 1000  # of 4,000, a lane was measured to drain a third as fast
BYTES: Final = 900_000  # in a batch; the door holds 1 MiB of a connection
AT_ONCE: Final = 3  # batches under way
GATHER_S: Final = 0.5  # a batch costs the site a sync and the hub a transaction, however small it is
ANSWER_S: Final = 120.0  # for a batch that hardly compresses, on a line of 64 kbit/s; a cut is noticed before
FULL_DISK: Final = "the disk is full, and what the hub has cannot be deleted"
_REASONS: Final[dict[Reason, hub_pb2.Gap.Reason.ValueType]] = {
    "full": hub_pb2.Gap.REASON_SPOOL_FULL,
    "old": hub_pb2.Gap.REASON_TOO_OLD,
    "erased": hub_pb2.Gap.REASON_ERASED,
}


class _Answer(NamedTuple):
    reached: int
    known: int  # what the hub had confirmed when it was asked


class Forwarder:
    def __init__(self, lane: Lane, hub: Hub, rate: float = math.inf) -> None:
        """`rate`: bytes a second at most, before they are compressed."""
        self._lane, self._hub, self._rate = lane, hub, rate
        self._turn = asyncio.Lock()  # to read and send: batches go in their order
        self._settling = asyncio.Lock()

    async def run(self) -> None:
        """Forwards for as long as the site is the one whom the hub knows, once it was greeted."""
        spool, position = self._lane.spool, self._hub.positions.get(self._lane.name)
        known = position.sequence if position and position.epoch == spool.epoch else 0
        await self._resume(known, spool.epoch)
        self._lane.again()
        works = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]
        try:
            await next(asyncio.as_completed(works))
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
        log.error("forwarding_stopped", lane=self._lane.name, reason=self._lane.refused)

    async def part(self) -> None:
        """Parts what is left here from what a copy of this disk forwarded under the same sequences, once
        the disk has room for that.
        """
        while True:
            try:
                return await asyncio.to_thread(self._lane.spool.begin_epoch)
            except Full:
                self._refused(FULL_DISK)
                await asyncio.sleep(LONGEST_S)

    async def _work(self) -> None:
        """Forwards one batch after the other, beside others that do, until the site is superseded."""
        while not isinstance(refusal := await self._forward(), Refused):
            if refusal:
                await asyncio.sleep(LONGEST_S)
                self._lane.again()

    async def _forward(self) -> PenstockError | None:
        """Forwards one batch. Returns why the hub refused it."""
        async with AsyncExitStack() as under_way:
            async with self._turn:
                oldest = self._lane.oldest(RECORDS, BYTES, gather_s=GATHER_S)
                batch = await under_way.enter_async_context(oldest)
                request = self._request(batch)
                sending = asyncio.create_task(self._send(request))
                under_way.push_async_callback(_end, sending)
                await asyncio.sleep(request.ByteSize() / self._rate)
            answer = await sending
            if isinstance(answer, PenstockError):
                return answer
            return await self._settle(batch, answer)

    async def _send(self, request: hub_pb2.ForwardRequest) -> PenstockError | _Answer:
        """Returns how far the hub has come, or why it refused the batch."""
        known = 0

        async def asked() -> hub_pb2.ForwardRequest:
            nonlocal known
            known = self._lane.spool.reached
            return request

        try:
            answer: hub_pb2.ForwardResponse = await self._hub.call(
                self._hub.stub.Forward, asked, within=ANSWER_S, waits=self._refused
            )
        except PenstockError as error:
            self._refused(error.message)
            return error
        if answer.reached >= request.first:  # else the one before it is refused, or was not there yet
            self._lane.refused = None
        for one in answer.rejected:
            log.warning("not_forwarded", lane=self._lane.name, sequence=one.sequence, reason=one.reason)
        return _Answer(answer.reached, known)

    async def _settle(self, batch: Batch, answer: _Answer) -> PenstockError | None:
        """Deletes what the hub has; returns why it cannot. An answer that says less than another did may
        be the older one. A hub that says less than it had confirmed before it was asked has lost that.
        """
        spool, trouble = self._lane.spool, None
        async with self._settling:
            if batch.epoch != spool.epoch:
                return None
            if answer.reached >= spool.reached or answer.reached < answer.known:
                trouble = await self._resume(answer.reached, batch.epoch)
            if max(answer.reached, spool.reached) < batch.last or batch.epoch != spool.epoch:
                self._lane.again()
        return trouble

    async def _resume(self, reached: int, epoch: str) -> PenstockError | None:
        try:
            await asyncio.to_thread(self._lane.spool.resume, reached, epoch)
        except Full:
            self._refused(FULL_DISK)
            return Unavailable(FULL_DISK)
        return None

    def _refused(self, why: str) -> None:
        if self._lane.refused != why:
            log.warning("batch_refused", lane=self._lane.name, reason=why)
        self._lane.refused = why

    def _request(self, batch: Batch) -> hub_pb2.ForwardRequest:
        return hub_pb2.ForwardRequest(
            lane=self._lane.name,
            incarnation=self._hub.incarnation,
            epoch=batch.epoch,
            first=batch.first,
            records=map(_forwarded, batch.entries),
        )


async def _end(sending: asyncio.Task[PenstockError | _Answer]) -> None:
    sending.cancel()
    await asyncio.wait([sending])


def _forwarded(one: Record | Gap) -> hub_pb2.Forwarded:
    match one:
        case Gap(records, reason):
            return hub_pb2.Forwarded(gap=hub_pb2.Gap(records=records, reason=_REASONS[reason]))
        case Record(_, "", _, body):
            return hub_pb2.Forwarded(prediction=body)
        case Record(pipeline, source, _, body):
            event = hub_pb2.SpooledEvent(pipeline=pipeline, source=source, event=body)
            return hub_pb2.Forwarded(event=event)
