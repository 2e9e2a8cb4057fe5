"""The hub's wiring, and the only file that knows all the others of it."""

from __future__ import annotations

from penstock.edge_gateway.v1.edge_gateway_pb2_grpc import add_EdgeGatewayServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock.runtime.pipelines import AppliedPipelines
from penstock_edge_gateway.hub.forward.forwarder import Forwarder
from penstock_edge_gateway.hub.forward.lease import Lease
from penstock_edge_gateway.hub.forward.write import GROUP
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.store import Tables
from penstock_edge_gateway.settings import Settings


async def run(settings: Settings) -> None:
    async with Service("edge_gateway", settings) as service:
        store = await service.store(Tables.metadata, migrations="penstock_edge_gateway.hub.migrations")
        applied = AppliedPipelines(GROUP, Keys(settings.platform.keys))
        await service.restores(applied)
        forwarder = Forwarder(
            settings.platform.kafka,
            lambda name: applied.get(name).pipeline,
            Lease(store, settings.replica, service.clock),
            service.readiness,
        )
        service.serve(add_EdgeGatewayServiceServicer_to_server, PeopleServicer(store))
        service.stream("forward", forwarder.run)
        await service.until_stopped()
