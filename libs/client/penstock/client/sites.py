"""Sites: who may come in at the door for sites, and how they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from penstock.client.connection import Connection
from penstock.edge_gateway.v1 import edge_gateway_pb2 as edge
from penstock.edge_gateway.v1 import edge_gateway_pb2_grpc


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
        return self._connection.call(self._stub.ListSites, edge.ListSitesRequest()).sites

    def get(self, site: str) -> edge.Site:
        """Raises NotFound."""
        return self._connection.call(self._stub.GetSite, edge.GetSiteRequest(site=site))

    def revoke(self, site: str) -> edge.Site:
        """Shuts a site out from this moment on. Raises NotFound."""
        return self._connection.call(self._stub.RevokeSite, edge.RevokeSiteRequest(site=site))
