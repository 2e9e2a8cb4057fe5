"""The hub's wiring, and the only file that knows all the others of it."""

from __future__ import annotations

from penstock.edge_gateway.v1.edge_gateway_pb2_grpc import add_EdgeGatewayServiceServicer_to_server
from penstock.runtime.lifecycle import Service
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.store import Tables
from penstock_edge_gateway.settings import Settings


async def run(settings: Settings) -> None:
    async with Service("edge_gateway", settings) as service:
        store = await service.store(Tables.metadata, migrations="penstock_edge_gateway.hub.migrations")
        service.serve(add_EdgeGatewayServiceServicer_to_server, PeopleServicer(store))
        await service.until_stopped()
