"""gRPC: the hub, for sites. Translates, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from penstock.contracts.errors import Conflict
from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock.edge_gateway.v1 import hub_pb2_grpc as pb_grpc
from penstock.packages import trust_updates
from penstock.runtime.rpc import timestamp
from penstock.runtime.store import Store
from penstock_edge_gateway.hub.callers import Callers
from penstock_edge_gateway.hub.sites import Sites

Context = grpc.aio.ServicerContext[Any, Any]


class HubServicer(pb_grpc.HubServiceServicer):
    def __init__(
        self, store: Store, sites: Sites, callers: Callers, keys: Path, clock: Callable[[], datetime]
    ) -> None:
        """`keys`: folder of the trust store."""
        self._store = store
        self._sites = sites
        self._callers = callers
        self._keys = keys
        self._clock = clock

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinResponse:
        self._callers.admitted(context)
        updates = trust_updates.read(self._keys)
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
        incarnation = await self._store.write(lambda effect: self._sites.begin(site, clock, effect))
        return pb.HelloResponse(incarnation=incarnation, clock=timestamp(self._clock()))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> pb.WatchResponse:
        raise _not_yet()

    async def FetchPackage(
        self, request: pb.FetchPackageRequest, context: Context
    ) -> pb.FetchPackageResponse:
        raise _not_yet()

    async def Forward(self, request: pb.ForwardRequest, context: Context) -> pb.ForwardResponse:
        raise _not_yet()


def _not_yet() -> Conflict:
    return Conflict("this hub does not do that yet", remedy="Wait for a release that does")
