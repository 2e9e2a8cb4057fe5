"""State of the site as it reports it: to the hub with each Watch and when it changes, and to programs
beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from penstock.contracts.errors import NotFound, Tampered
from penstock.edge_gateway.v1 import site_pb2
from penstock_edge_gateway.features import FEATURES
from penstock_edge_gateway.site.fallback import Fallback
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.lane_status import lane_status
from penstock_edge_gateway.site.rejects import Rejects
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trust import SiteTrust

LOOK_EVERY_S: Final = 5.0
CALM_S: Final = 60.0  # between two changes that are told at once
_PARTS: Final = 4  # of a lane's capacity: one that fills slowly has not changed at each look


class Reporting:
    def __init__(
        self,
        site: str,
        hub: Hub,
        serving: Serving,
        fallback: Fallback,
        trust: SiteTrust,
        lanes: Sequence[Lane],
        rejects: Rejects,
        clock: Callable[[], datetime],
    ) -> None:
        self._site = site
        self._hub = hub
        self._serving = serving
        self._fallback = fallback
        self._trust = trust
        self._lanes = lanes
        self._rejects = rejects
        self._clock = clock
        self._told = b""  # what of the status counts as a change, as the hub was told it
        self._calm_until = float("-inf")

    def tell(self) -> site_pb2.SiteStatus:
        """The status, to be told to the hub. It blocks as `status`."""
        said = self.status()
        self._told = _significant(said)
        return said

    async def changed(self) -> None:
        """Returns when the hub should hear of a change before it is told the status anyway."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._calm_until - loop.time())
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if _significant(await asyncio.to_thread(self.status)) != self._told:
                self._calm_until = loop.time() + CALM_S
                return

    def status(self) -> site_pb2.SiteStatus:
        """Reads the spools: blocks for a moment."""
        said = site_pb2.SiteStatus(
            site=self._site,
            incarnation=self._hub.incarnation,
            pipelines=self._pipelines(),
            lanes=map(lane_status, self._lanes),
            rejects=self._rejects.told(),
            features=sorted(FEATURES),
            hub_trouble=self._hub.why or next((why for one in self._lanes if (why := one.refused)), ""),
        )
        with suppress(NotFound, Tampered):
            said.trust_serial = self._trust.serial
            if signed_at := self._trust.signed_at:
                said.trust_signed_at.FromDatetime(signed_at)
        said.clock.FromDatetime(self._clock())
        if self._hub.heard:
            said.hub_heard.FromDatetime(self._hub.heard)
        return said

    def _pipelines(self) -> list[site_pb2.SitePipeline]:
        breakers = self._fallback.breakers()
        return [self._pipeline(name, breakers) for name in sorted({*self._serving.kept, *breakers})]

    def _pipeline(self, name: str, breakers: Mapping[str, str]) -> site_pb2.SitePipeline:
        said = site_pb2.SitePipeline(
            pipeline=name,
            answered_by_cloud=self._fallback.answered[name],
            breaker=breakers.get(name, ""),
        )
        if version := self._serving.versions.get(name):
            said.digest, said.generation = version.model.digest, version.model.generation
            said.since.FromDatetime(version.since)
        if (kept := self._serving.kept.get(name)) and (refused := kept.refused):
            said.refused, said.why = refused.digest, refused.reason
        return said


def _significant(status: site_pb2.SiteStatus) -> bytes:
    said = site_pb2.SiteStatus()
    said.CopyFrom(status)
    for field in ("clock", "hub_heard", "hub_trouble"):
        said.ClearField(field)
    for one in said.pipelines:
        one.ClearField("answered_by_cloud")
        one.breaker = "open" if one.breaker == "half_open" else one.breaker  # which time alone changes
    for lane in said.lanes:
        part = lane.bytes * _PARTS // (lane.capacity_bytes or 1)
        since = lane.full_since if lane.HasField("full_since") else None
        lane.CopyFrom(site_pb2.SiteLane(lane=lane.lane, bytes=part, full_since=since))
    for rejects in said.rejects:
        rejects.ClearField("events")
    return said.SerializeToString(deterministic=True)
