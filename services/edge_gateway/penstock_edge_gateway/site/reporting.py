"""State of the site as it reports it: to the hub with each Watch, and to programs beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from penstock.edge_gateway.v1 import site_pb2
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.lane_status import lane_status
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trust import SiteTrust


class Reporting:
    def __init__(
        self,
        site: str,
        hub: Hub,
        serving: Serving,
        trust: SiteTrust,
        lanes: Sequence[Lane],
        clock: Callable[[], datetime],
    ) -> None:
        self._site = site
        self._hub = hub
        self._serving = serving
        self._trust = trust
        self._lanes = lanes
        self._clock = clock

    def status(self) -> site_pb2.SiteStatus:
        said = site_pb2.SiteStatus(
            site=self._site,
            incarnation=self._hub.incarnation,
            pipelines=[self._pipeline(name) for name in sorted(self._serving.kept)],
            lanes=map(lane_status, self._lanes),
            trust_serial=self._trust.serial,
            hub_trouble=self._hub.why or next((why for one in self._lanes if (why := one.refused)), ""),
        )
        said.clock.FromDatetime(self._clock())
        if self._hub.heard:
            said.hub_heard.FromDatetime(self._hub.heard)
        return said

    def _pipeline(self, name: str) -> site_pb2.SitePipeline:
        said = site_pb2.SitePipeline(pipeline=name)
        if version := self._serving.versions.get(name):
            said.digest, said.generation = version.model.digest, version.model.generation
            said.since.FromDatetime(version.since)
        if refused := self._serving.kept[name].refused:
            said.refused, said.why = refused.digest, refused.reason
        return said
