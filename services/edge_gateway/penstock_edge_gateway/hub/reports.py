"""How each site is, as it told last and as the hub sees it: kept with the site, and published when it
has changed and every quarter of an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from penstock.contracts.errors import Invalid
from penstock.contracts.events.sites import RefusedAtSite, SiteLane, SiteReported, SiteServing
from penstock.contracts.events.versions import Served
from penstock.edge_gateway.v1 import site_pb2 as pb
from penstock.runtime.store import Effect, Store
from penstock_edge_gateway.hub import store as rows
from penstock_edge_gateway.hub.store import SiteRow

EVERY_S: Final = 900.0
_PARTS: Final = 4  # of a lane's capacity: a site that fills slowly is no news at each look


class Reports:
    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    def heard(self, site: str, status: pb.SiteStatus, effect: Effect) -> None:
        """Keeps what a site told, and publishes it where something has changed. Raises Invalid: what
        the site told before stays.
        """
        row, now = effect.session.get_one(SiteRow, site), self._clock()
        before = _significant(report(row, now))
        row.last_contact = now
        row.status = status.SerializeToString()
        try:
            if status.HasField("clock"):
                row.clock_ahead_s = (status.clock.ToDatetime(UTC) - now).total_seconds()
            told = report(row, now)
        except ValueError as error:
            raise Invalid(f"this is no site's status: {error}", where="status") from error
        if _significant(told) != before:
            effect.publish(told)

    def publish(self, effect: Effect) -> None:
        """Publishes every site as it is."""
        for row in rows.sites(effect.session):
            effect.publish(report(row, self._clock()))

    async def run(self, store: Store) -> None:
        """Publishes every site again and again."""
        while True:
            await asyncio.sleep(EVERY_S)
            await store.write(self.publish)


def status_of(row: SiteRow) -> pb.SiteStatus:
    return pb.SiteStatus.FromString(row.status or b"")


def report(row: SiteRow, now: datetime) -> SiteReported:
    """The site's whole state."""
    status = status_of(row)
    return SiteReported(
        site=row.name,
        state=row.state,
        since=row.since,
        certificate=row.key,
        incarnation=row.incarnation,
        last_contact=row.last_contact,
        clock_ahead_s=row.clock_ahead_s,
        trust_serial=status.trust_serial or None,
        pipelines=tuple(_serving(one) for one in status.pipelines),
        lanes=tuple(_lane(one) for one in status.lanes),
        reported_at=now,
    )


def _serving(told: pb.SitePipeline) -> SiteServing:
    return SiteServing(
        pipeline=told.pipeline,
        serving=Served(digest=told.digest, generation=told.generation, since=told.since.ToDatetime(UTC))
        if told.digest
        else None,
        refused=RefusedAtSite(digest=told.refused, why=told.why) if told.refused else None,
    )


def _lane(told: pb.SiteLane) -> SiteLane:
    return SiteLane(
        lane=told.lane,
        records=told.records,
        bytes=told.bytes,
        capacity_bytes=told.capacity_bytes,
        dropped=told.dropped,
        full_since=told.full_since.ToDatetime(UTC) if told.HasField("full_since") else None,
    )


def _significant(told: SiteReported) -> Any:
    # What makes a report worth publishing between two quarters of an hour.
    minutes = None if told.clock_ahead_s is None else round(told.clock_ahead_s / 60)
    lanes = [
        (one.lane, one.full_since, one.bytes * _PARTS // (one.capacity_bytes or 1)) for one in told.lanes
    ]
    return (told.state, told.since, told.incarnation, told.trust_serial, told.pipelines, minutes, lanes)
