"""The hub's wiring, and the only file that knows all the others of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from penstock.edge_gateway.v1.edge_gateway_pb2_grpc import add_EdgeGatewayServiceServicer_to_server
from penstock.edge_gateway.v1.hub_pb2_grpc import add_HubServiceServicer_to_server
from penstock.packages.keys import Keys
from penstock.runtime.lifecycle import Service
from penstock_edge_gateway.hub import readings
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.callers import Callers
from penstock_edge_gateway.hub.forward.forwarder import Forwarder
from penstock_edge_gateway.hub.forward.lease import Lease
from penstock_edge_gateway.hub.forward.write import GROUP
from penstock_edge_gateway.hub.hub_servicer import HubServicer
from penstock_edge_gateway.hub.news import News
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.hub.questions import Questions
from penstock_edge_gateway.hub.reports import Reports
from penstock_edge_gateway.hub.shelf import Shelf
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import Tables
from penstock_edge_gateway.settings import Settings

log = structlog.get_logger(__name__)

RENEW_EVERY_S: Final = 3600.0


async def run(settings: Settings) -> None:
    async with Service("edge_gateway", settings) as service:
        store = await service.store(Tables.metadata, migrations="penstock_edge_gateway.migrations")
        pseudonyms = PseudonymKeys(settings.data_dir)
        news = News(GROUP, Keys(settings.platform.keys), pseudonyms)
        await service.restores(news.applied, news)
        forwarder = Forwarder(
            settings.platform.kafka,
            news.declared,
            Lease(store, settings.replica, service.clock),
            service.readiness,
        )
        authority = await asyncio.to_thread(Authority.open, settings.data_dir, service.clock())
        await asyncio.to_thread(authority.hand_over, settings.site_door, service.clock())
        sites = Sites(authority, settings.sites_address, service.clock)
        callers = Callers(store, authority.secret)
        reports = Reports(service.clock)
        shelf = Shelf(service.artifacts, settings.data_dir / "packages", news.version)
        questions = Questions(service.channel("inference"), authority.secret, news.declared)

        people = PeopleServicer(store, sites, news.changed, news.pseudonym, news.held_back)
        service.serve(add_EdgeGatewayServiceServicer_to_server, people)
        service.serve(
            add_HubServiceServicer_to_server,
            HubServicer(store, sites, callers, reports, news, shelf, forwarder, questions),
        )
        service.stream("forward", forwarder.run)
        service.background("trust", news.follow_trust)
        service.background("reports of sites", lambda: reports.run(store))
        service.describe(partial(readings.facts, store))
        service.observe(readings.metrics(store, settings.platform.keys, service.clock))
        service.background("certificate of the door", lambda: _renew(authority, settings, service.clock))
        await service.until_stopped()


async def _renew(authority: Authority, settings: Settings, clock: Callable[[], datetime]) -> None:
    while True:
        await asyncio.sleep(RENEW_EVERY_S)
        try:
            await asyncio.to_thread(authority.hand_over, settings.site_door, clock())
        except OSError as error:  # the certificate holds for weeks
            log.error("site_door_not_handed_over", why=str(error))
