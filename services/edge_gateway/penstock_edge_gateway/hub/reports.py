"""State of each site, as it told last and as the hub sees it: kept with the site, and published when it
has changed and every quarter of an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.events import encode
from penstock.contracts.events.sites import RefusedAtSite, SiteLane, SiteReported, SiteServing
from penstock.contracts.events.versions import Served
from penstock.edge_gateway.v1 import site_pb2 as pb
from penstock.runtime.store import Effect, Store
from penstock_edge_gateway.hub import store as rows
from penstock_edge_gateway.hub.store import SiteRow

log = structlog.get_logger(__name__)

EVERY_S: Final = 900.0
_PARTS: Final = 4  # of a lane's capacity: a site that fills slowly is no news at each look
STATUS_BYTES: Final = 256 * 1024
REPORT_BYTES: Final = 512 * 1024
"""Limit of a site's report: what the hub says of the site later, its revocation first, fits a message too."""


class Reports:
    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    def heard(self, site: str, status: pb.SiteStatus, effect: Effect) -> None:
        """Keeps what a site told, and publishes it where something has changed. Raises Invalid: what
        the site told before stays.
        """
        row, now = effect.session.get_one(SiteRow, site), self._clock()
        before = _significant(report(row, now))
        if (size := status.ByteSize()) > STATUS_BYTES:
            raise Invalid(f"a status of {size} bytes, at most {STATUS_BYTES}", where="status")
        row.last_contact = now
        row.status = status.SerializeToString()
        try:
            if status.HasField("clock"):
                row.clock_ahead_s = (status.clock.ToDatetime(UTC) - now).total_seconds()
            for stamp in (status.hub_heard, *(one.first for one in status.rejects)):
                stamp.ToDatetime()  # as people are shown it
            told = _report(row, status, now)
        except ValueError as error:
            raise Invalid(f"this is no site's status: {error}", where="status") from error
        if (size := len(encode(told))) > REPORT_BYTES:
            raise Invalid(f"a report of {size} bytes, at most {REPORT_BYTES}", where="status")
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
            try:
                await store.write(self.publish)
            except Unavailable as error:  # or too many wait for it
                log.warning("sites_not_told", why=str(error))


def status_of(row: SiteRow) -> pb.SiteStatus:
    return pb.SiteStatus.FromString(row.status or b"")


def report(row: SiteRow, now: datetime) -> SiteReported:
    """The site's whole state; without what it told where another release kept that and this one does
    not read it: it is revoked all the same.
    """
    try:
        return _report(row, status_of(row), now)
    except ValueError:
        return _report(row, pb.SiteStatus(), now)


def _report(row: SiteRow, status: pb.SiteStatus, now: datetime) -> SiteReported:
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
