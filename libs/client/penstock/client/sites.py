"""Sites: who may come in at the door for sites, and how they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from penstock.client.connection import Connection
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge
from penstock.edge_gateway.v1 import edge_gateway_pb2_grpc

PAGE_SITES: Final = 500  # in an answer


class Sites:
    """`penstock.sites`: machines elsewhere that serve the same models."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = edge_gateway_pb2_grpc.EdgeGatewayServiceStub(connection.channel)

    def enroll(
        self, site: str, *, replace: bool = False, valid_for: timedelta | None = None
    ) -> edge.EnrollSiteResponse:
        """Makes a token by which one machine may become the site, once; by default within a day.

        With `replace` the machine that has the name now is shut out. Raises Conflict for a name that is
        taken.
        """
        request = edge.EnrollSiteRequest(
            site=site, replace=replace, valid_seconds=int(valid_for.total_seconds()) if valid_for else 0
        )
        return self._connection.call(self._stub.EnrollSite, request)

    def list(self) -> Sequence[edge.Site]:
        """Lists all sites by name, revoked ones too."""
        found: list[edge.Site] = []
        page = edge.ListSitesResponse()
        while True:
            request = edge.ListSitesRequest(page_token=page.next_page_token, page_size=PAGE_SITES)
            page = self._connection.call(self._stub.ListSites, request)
            found += page.sites
            if not page.next_page_token:
                return found

    def get(self, site: str) -> edge.Site:
        """Raises NotFound."""
        return self._connection.call(self._stub.GetSite, edge.GetSiteRequest(site=site))

    def erase(self, pipeline: str, entity: str) -> edge.EraseAtSitesResponse:
        """Has each site erase an entity from what it has not forwarded yet, as soon as it is reached."""
        request = edge.EraseAtSitesRequest(pipeline=pipeline, entity=entity)
        return self._connection.call(self._stub.EraseAtSites, request)

    def waiting(self, erasure: edge.EraseAtSitesResponse) -> Sequence[str]:
        """Lists the sites that have not carried out the erasure yet, but for revoked ones."""
        asked = set(erasure.sites)
        return [
            site.name
            for site in self.list()
            if site.name in asked and site.state != "revoked" and site.erased < erasure.serial
        ]

    def revoke(self, site: str) -> edge.Site:
        """Shuts a site out from this moment on. Raises NotFound."""
        return self._connection.call(self._stub.RevokeSite, edge.RevokeSiteRequest(site=site))
