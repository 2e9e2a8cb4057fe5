"""gRPC: sites, for people. Translates, nothing else."""

from __future__ import annotations

from typing import Any

import grpc

from penstock.contracts.errors import Conflict
from penstock.edge_gateway.v1 import edge_gateway_pb2 as pb
from penstock.edge_gateway.v1 import edge_gateway_pb2_grpc as pb_grpc
from penstock.runtime.store import Store
from penstock_edge_gateway.hub import store as rows

Context = grpc.aio.ServicerContext[Any, Any]


class PeopleServicer(pb_grpc.EdgeGatewayServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def ListSites(self, request: pb.ListSitesRequest, context: Context) -> pb.ListSitesResponse:
        return await self._store.read(
            lambda session: pb.ListSitesResponse(sites=[_site(row) for row in rows.sites(session)])
        )

    async def GetSite(self, request: pb.GetSiteRequest, context: Context) -> pb.Site:
        return await self._store.read(lambda session: _site(rows.site(session, request.site)))

    async def EnrollSite(self, request: pb.EnrollSiteRequest, context: Context) -> pb.EnrollSiteResponse:
        raise _not_yet()

    async def RevokeSite(self, request: pb.RevokeSiteRequest, context: Context) -> pb.Site:
        raise _not_yet()


def _not_yet() -> Conflict:
    return Conflict("this hub enrolls no sites yet", remedy="Wait for a release that does")


def _site(row: rows.SiteRow) -> pb.Site:
    return pb.Site(name=row.name, state=row.state, key=row.certificate or "", incarnation=row.incarnation)
