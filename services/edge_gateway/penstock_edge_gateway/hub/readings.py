"""Readings of the hub: facts for `penstock status`, values for the metrics. Of the sites the worst one
counts; `penstock sites list` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from penstock.contracts.metrics import (
    SITE_BREAKERS,
    SITE_CLOCK,
    SITE_REFUSALS,
    SITE_SILENCE,
    SITE_SPOOL,
    SITE_TRUST,
    SITES,
)
from penstock.packages import trust_updates
from penstock.runtime.metrics import Read, Reading, Readings
from penstock.runtime.status import Facts
from penstock.runtime.store import Store
from penstock_edge_gateway.hub import store as rows
from penstock_edge_gateway.hub.reports import status_of
from penstock_edge_gateway.hub.store import ENROLLED, INVITED, REVOKED, SiteRow


def facts(store: Store) -> Facts:
    with store.snapshot() as session:
        states = [row.state for row in rows.sites(session)]
    said = [f"{states.count(ENROLLED)} {'site' if states.count(ENROLLED) == 1 else 'sites'}"]
    said += [f"{states.count(INVITED)} invited"] if INVITED in states else []
    return {"sites": ", ".join(said)}


def metrics(store: Store, keys: Path, clock: Callable[[], datetime]) -> Readings:
    """`keys`: folder of the trust store."""

    def worst(value: Callable[[SiteRow], float]) -> Read:
        def read() -> list[Reading]:
            with store.snapshot() as session:
                enrolled = [row for row in rows.sites(session) if row.state == ENROLLED]
            return [(max(map(value, enrolled), default=0.0), {})]

        return read

    def states() -> list[Reading]:
        with store.snapshot() as session:
            found = [row.state for row in rows.sites(session)]
        return [(float(found.count(state)), {"state": state}) for state in (INVITED, ENROLLED, REVOKED)]

    def silence(row: SiteRow) -> float:
        return (clock() - (row.last_contact or row.since)).total_seconds()

    def trust() -> Iterable[Reading]:
        updates = trust_updates.read(keys)
        newest, at = trust_updates.newest(updates)
        behind = worst(lambda row: float(_trusted(row) < newest) * (clock() - at).total_seconds())
        return behind()

    return {
        SITES: states,
        SITE_SILENCE: worst(silence),
        SITE_SPOOL: worst(_fullest),
        SITE_CLOCK: worst(lambda row: abs(row.clock_ahead_s or 0.0)),
        SITE_BREAKERS: worst(_opened),
        SITE_REFUSALS: worst(lambda row: float(sum(bool(one.refused) for one in status_of(row).pipelines))),
        SITE_TRUST: trust,
    }


def _fullest(row: SiteRow) -> float:
    lanes = status_of(row).lanes
    return max((one.bytes / (one.capacity_bytes or 1) for one in lanes), default=0.0)


def _opened(row: SiteRow) -> float:
    return float(sum(one.breaker == "open" for one in status_of(row).pipelines))


def _trusted(row: SiteRow) -> int:
    return status_of(row).trust_serial
