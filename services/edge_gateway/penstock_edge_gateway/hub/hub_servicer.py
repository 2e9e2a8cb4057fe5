"""gRPC: the hub, for sites. Translates, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC
from typing import Any, Final

import grpc
import structlog
from sqlalchemy.orm import Session

from penstock.contracts.errors import Invalid, Unavailable
from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock.edge_gateway.v1 import hub_pb2_grpc as pb_grpc
from penstock.packages import trust_updates
from penstock.runtime.rpc import timestamp
from penstock.runtime.store import Store
from penstock_edge_gateway.hub import erasures
from penstock_edge_gateway.hub.callers import Callers
from penstock_edge_gateway.hub.forward.forwarder import Forwarder
from penstock_edge_gateway.hub.forward.lanes import batch_of, superseded
from penstock_edge_gateway.hub.news import News
from penstock_edge_gateway.hub.questions import Questions
from penstock_edge_gateway.hub.reports import Reports, status_of
from penstock_edge_gateway.hub.shelf import Shelf
from penstock_edge_gateway.hub.sites import Sites, known
from penstock_edge_gateway.hub.store import ErasureRow

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

WATCH_S: Final = 200.0  # that a site which knows everything waits at most; less than its door lets it
# Calls of Join at a time: whoever reaches the door may call it, and takes no site's place at the database.
JOINING: Final = 4
ERASURES: Final = 1000  # in an answer; the others follow when these are carried out
WHY: Final = 300  # characters of a reason, of which there may be thousands in an answer
ANSWER_S: Final = 2.0  # of the caller's deadline, for the answer's way back


class HubServicer(pb_grpc.HubServiceServicer):
    def __init__(
        self,
        store: Store,
        sites: Sites,
        callers: Callers,
        reports: Reports,
        news: News,
        shelf: Shelf,
        forwarder: Forwarder,
        questions: Questions,
    ) -> None:
        self._store = store
        self._sites = sites
        self._callers = callers
        self._reports = reports
        self._news = news
        self._shelf = shelf
        self._forwarder = forwarder
        self._questions = questions
        self._joining = asyncio.Semaphore(JOINING)

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        self._callers.admitted(context)
        if self._joining.locked():
            raise Unavailable(f"{JOINING} others join just now", remedy="Try again")
        async with self._joining:
            updates = self._news.trust()
            trust_updates.first(updates)  # or a site would join that can prove nothing
            row = await self._store.write(
                lambda effect: self._sites.join(request.token, request.certificate_request, effect)
            )
        return pb.JoinResponse(
            site=row.name, certificate=row.certificate or "", trust=trust_updates.written(updates)
        )

    async def Hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloResponse:
        site = await self._callers.site_of(context)
        clock = request.clock.ToDatetime(UTC) if request.HasField("clock") else None
        # First: while this hub cannot tell them, the site begins later.
        positions = self._forwarder.positions(site)
        after = self._forwarder.incarnation(site)
        incarnation = await self._store.write(
            lambda effect: self._sites.begin(site, clock, effect, after=after, superseded=request.superseded)
        )
        return pb.HelloResponse(
            incarnation=incarnation,
            clock=timestamp(self._sites.clock()),
            positions={
                lane: pb.Position(epoch=at.epoch, sequence=at.sequence) for lane, at in positions.items()
            },
        )

    async def Watch(self, request: pb.WatchRequest, context: Context) -> pb.WatchResponse:
        site, _ = await self._present(context, request.incarnation)
        try:
            await self._store.write(lambda effect: self._reports.heard(site, request.status, effect))
        except Invalid as error:  # such a site gets its news all the same
            log.warning("status_of_a_site_unreadable", site=site, why=str(error))
        if request.erased:
            await self._store.write(lambda effect: erasures.confirm(effect, site, request.erased))
        remaining = context.time_remaining()
        within_s = WATCH_S if remaining is None else min(WATCH_S, remaining - ANSWER_S)

        async def to_erase() -> list[pb.Erasure]:
            _, pending = await self._present(context, request.incarnation)
            return [
                pb.Erasure(serial=one.serial, pipeline=one.pipeline, entity=one.entity)
                for one in pending[:ERASURES]
            ]

        news = await self._news.newer(request, within_s, to_erase)
        await self._present(context, request.incarnation)  # it may have been revoked meanwhile
        return news

    async def FetchPackage(
        self, request: pb.FetchPackageRequest, context: Context
    ) -> pb.FetchPackageResponse:
        await self._callers.site_of(context)
        data, size = await asyncio.to_thread(
            self._shelf.read, request.digest, request.part, request.offset, request.length
        )
        return pb.FetchPackageResponse(data=data, size=size)

    async def Forward(self, request: pb.ForwardRequest, context: Context) -> pb.ForwardResponse:
        site, pending = await self._present(context, request.incarnation)
        erased = frozenset((one.pipeline, one.entity.encode()) for one in pending)
        reached = await self._forwarder.forward(batch_of(site, request, erased))
        return pb.ForwardResponse(
            reached=reached.sequence,
            rejected=[
                pb.Rejected(sequence=at, reason=str(why)[:WHY]) for at, why in reached.rejected.items()
            ],
        )

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.InferResponse:
        site, _ = await self._present(context, request.incarnation)
        if request.question.tensors:
            features = await self._store.read(lambda session: status_of(known(session, site)).features)
            self._news.check_told(request.question.pipeline, features)
        answer = await self._questions.ask(site, request.question, context.time_remaining())
        return pb.InferResponse(answer=answer)

    async def _present(self, context: Context, incarnation: int) -> tuple[str, Sequence[ErasureRow]]:
        """Name of the site that calls, and what it has still to erase. Raises Denied, and Refused where
        another process with its name and key has started since.
        """
        site = await self._callers.site_of(context)

        def found(session: Session) -> tuple[int, Sequence[ErasureRow]]:
            row = known(session, site)
            return row.incarnation, erasures.pending(session, row)

        newest, pending = await self._store.read(found)
        newest = max(newest, self._forwarder.incarnation(site))  # a database may have been set back
        if incarnation != newest:
            raise superseded(incarnation, newest)
        return site, pending
