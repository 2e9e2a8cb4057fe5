"""A lane to the hub: batch after batch, in order, each until the hub has it."""

from __future__ import annotations

import asyncio
import math
from typing import Final

import structlog

from penstock.contracts.errors import PenstockError, Refused
from penstock.edge_gateway.v1 import hub_pb2
from penstock_edge_gateway.site.hub import LONGEST_S, Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.spool import Batch, Gap, Reason, Record

log = structlog.get_logger(__name__)

RECORDS: Final = 1000  # of 4,000, a lane was measured to drain a third as fast
BYTES: Final = 900_000  # in a batch; the door holds 1 MiB of a connection
GATHER_S: Final = 0.5  # a batch costs the site a sync and the hub a transaction, however small it is
ANSWER_S: Final = 120.0  # for a batch that hardly compresses, on a line of 64 kbit/s; a cut is noticed before
_REASONS: Final[dict[Reason, hub_pb2.Gap.Reason.ValueType]] = {
    "full": hub_pb2.Gap.REASON_SPOOL_FULL,
    "old": hub_pb2.Gap.REASON_TOO_OLD,
    "erased": hub_pb2.Gap.REASON_ERASED,
}


class Forwarder:
    def __init__(self, lane: Lane, hub: Hub, rate: float = math.inf) -> None:
        """`rate`: bytes a second at most, before they are compressed."""
        self._lane, self._hub, self._rate = lane, hub, rate

    async def run(self) -> None:
        """Forwards for as long as the site is the one whom the hub knows, once it was greeted."""
        spool, position = self._lane.spool, self._hub.positions.get(self._lane.name)
        known = position.sequence if position and position.epoch == spool.epoch else 0
        await asyncio.to_thread(spool.resume, known)
        while not isinstance(refusal := await self._forward(), Refused):
            if refusal:
                await asyncio.sleep(LONGEST_S)
        log.error("forwarding_stopped", lane=self._lane.name, reason=self._lane.refused)

    async def _forward(self) -> PenstockError | None:
        """Forwards one batch. Returns why the hub refused it."""
        async with self._lane.oldest(RECORDS, BYTES, gather_s=GATHER_S) as batch:
            request = self._request(batch)
            refusal = await self._send(request)
        await asyncio.sleep(request.ByteSize() / self._rate)
        return refusal

    async def _send(self, request: hub_pb2.ForwardRequest) -> PenstockError | None:
        try:
            answer = await self._hub.call(
                self._hub.stub.Forward, lambda: request, within=ANSWER_S, waits=self._refused
            )
        except PenstockError as error:
            self._refused(error.message)
            return error
        self._lane.refused = None
        for one in answer.rejected:
            log.warning("not_forwarded", lane=self._lane.name, sequence=one.sequence, reason=one.reason)
        await asyncio.to_thread(self._lane.spool.resume, answer.reached)
        return None

    def _refused(self, why: str) -> None:
        if self._lane.refused != why:
            log.warning("batch_refused", lane=self._lane.name, reason=why)
        self._lane.refused = why

    def _request(self, batch: Batch) -> hub_pb2.ForwardRequest:
        return hub_pb2.ForwardRequest(
            lane=self._lane.name,
            incarnation=self._hub.incarnation,
            epoch=self._lane.spool.epoch,
            first=batch.first,
            records=map(_forwarded, batch.entries),
        )


def _forwarded(one: Record | Gap) -> hub_pb2.Forwarded:
    match one:
        case Gap(records, reason):
            return hub_pb2.Forwarded(gap=hub_pb2.Gap(records=records, reason=_REASONS[reason]))
        case Record(_, "", _, body):
            return hub_pb2.Forwarded(prediction=body)
        case Record(pipeline, source, _, body):
            event = hub_pb2.SpooledEvent(pipeline=pipeline, source=source, event=body)
            return hub_pb2.Forwarded(event=event)
