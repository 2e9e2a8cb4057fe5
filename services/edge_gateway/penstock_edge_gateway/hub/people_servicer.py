"""gRPC: sites, for people. Translates, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from sqlalchemy.orm import Session

from penstock.edge_gateway.v1 import edge_gateway_pb2 as pb
from penstock.edge_gateway.v1 import edge_gateway_pb2_grpc as pb_grpc
from penstock.runtime.rpc import timestamp
from penstock.runtime.store import Store
from penstock_edge_gateway.hub import erasures, sites
from penstock_edge_gateway.hub import store as rows
from penstock_edge_gateway.hub.reports import status_of
from penstock_edge_gateway.hub.sites import VALID_S, Sites

Context = grpc.aio.ServicerContext[Any, Any]

PAGE_SITES: Final = 500  # of a page, however many are asked for
PAGE_BYTES: Final = 1 << 20  # of a page, but for a single site's: gRPC's clients take 4 MiB by themselves


class PeopleServicer(pb_grpc.EdgeGatewayServiceServicer):
    def __init__(
        self,
        store: Store,
        sites: Sites,
        asked: Callable[[], None],
        pseudonym: Callable[[str, str], str | None],
        held_back: Callable[[Iterable[str]], Sequence[str]],
    ) -> None:
        """`asked` is called when sites have something more to erase; `pseudonym` finds that of a
        pipeline's entity, None where there is none; `held_back` lists the pipelines whose file a site
        with these features is not told.
        """
        self._store = store
        self._sites = sites
        self._asked = asked
        self._pseudonym = pseudonym
        self._held_back = held_back

    async def EnrollSite(self, request: pb.EnrollSiteRequest, context: Context) -> pb.EnrollSiteResponse:
        valid_s = request.valid_seconds or VALID_S
        token = await self._store.write(
            lambda effect: self._sites.enroll(request.site, effect, replace=request.replace, valid_s=valid_s)
        )
        return pb.EnrollSiteResponse(
            site=token.site,
            token=str(token),
            expires_at=timestamp(token.expires),
            hub=token.hub,
            authority=token.authority,
        )

    async def ListSites(self, request: pb.ListSitesRequest, context: Context) -> pb.ListSitesResponse:
        return await self._store.read(lambda session: self._page(session, request))

    async def GetSite(self, request: pb.GetSiteRequest, context: Context) -> pb.Site:
        return await self._store.read(lambda session: self._site(sites.known(session, request.site)))

    async def RevokeSite(self, request: pb.RevokeSiteRequest, context: Context) -> pb.Site:
        return await self._store.write(lambda effect: self._site(self._sites.revoke(request.site, effect)))

    async def EraseAtSites(
        self, request: pb.EraseAtSitesRequest, context: Context
    ) -> pb.EraseAtSitesResponse:
        pseudonym = await asyncio.to_thread(self._pseudonym, request.pipeline, request.entity)
        serial, names = await self._store.write(
            lambda effect: erasures.ask(effect, request.pipeline, *filter(None, (request.entity, pseudonym)))
        )
        self._asked()
        return pb.EraseAtSitesResponse(serial=serial, sites=names, pseudonym=pseudonym or "")

    def _page(self, session: Session, asked: pb.ListSitesRequest) -> pb.ListSitesResponse:
        if not asked.page_size:
            return pb.ListSitesResponse(sites=map(self._site, rows.sites(session, asked.page_token)))
        page, size, most = pb.ListSitesResponse(), 0, min(asked.page_size, PAGE_SITES)
        found = rows.sites(session, asked.page_token, most + 1)
        for row in found[:most]:
            site = self._site(row)
            size += site.ByteSize()
            if page.sites and size > PAGE_BYTES:
                break
            page.sites.append(site)
        if len(page.sites) < len(found):
            page.next_page_token = page.sites[-1].name
        return page

    def _site(self, row: rows.SiteRow) -> pb.Site:
        status = status_of(row) if row.status else None
        return pb.Site(
            name=row.name,
            state=row.state,
            since=timestamp(row.since),
            key=row.key or "",
            incarnation=row.incarnation,
            erased=row.erased,
            last_contact=timestamp(row.last_contact),
            status=status,
            clock_ahead=None if row.clock_ahead_s is None else _duration(row.clock_ahead_s),
            held_back=self._held_back(status.features) if status else (),
        )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
