"""What a site told is kept, and published where it is news."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select

from penstock.contracts import metrics
from penstock.contracts.errors import Invalid
from penstock.edge_gateway.v1 import site_pb2 as pb
from penstock.packages.keys import Keys
from penstock.runtime.rpc import timestamp
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock_edge_gateway.hub import readings
from penstock_edge_gateway.hub.reports import STATUS_BYTES, Reports
from penstock_edge_gateway.hub.store import ENROLLED, INVITED, SiteRow, Tables

START = datetime(2026, 11, 30, 6, tzinfo=UTC)
DIGEST = f"sha256:{'1' * 64}"


class Hub:
    """A database with one enrolled site, and one that is invited; its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.store = Store.open(f"sqlite:///{folder / 'hub.db'}", Tables.metadata)
        self.reports = Reports(lambda: self.now)
        with self.store.transaction() as effect:
            effect.session.add(SiteRow(name="branch-1", state=ENROLLED, since=START, incarnation=0))
            effect.session.add(SiteRow(name="branch-2", state=INVITED, since=START, incarnation=0))

    def heard(self, status: pb.SiteStatus) -> None:
        with self.store.transaction() as effect:
            self.reports.heard("branch-1", status, effect)

    def published(self) -> list[dict[str, Any]]:
        with self.store.snapshot() as session:
            return [json.loads(row.value) for row in session.scalars(select(OutboxRow))]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    hub.store.close()


def status(
    *, size: int = 10, refused: str = "", ahead: timedelta = timedelta(), serial: int = 1
) -> pb.SiteStatus:
    pipeline = pb.SitePipeline(
        pipeline="loans", digest=DIGEST, generation=3, since=timestamp(START), refused=refused, why="tampered"
    )
    lane = pb.SiteLane(lane="events", records=size, bytes=size, capacity_bytes=100)
    return pb.SiteStatus(
        site="another",
        clock=timestamp(START + ahead),
        pipelines=[pipeline],
        lanes=[lane],
        trust_serial=serial,
    )


def test_what_is_news_is_published_and_nothing_else(hub: Hub) -> None:
    for told in (status(), status(size=20, ahead=timedelta(seconds=9)), status(size=60)):
        hub.heard(told)
    hub.heard(status(size=60, refused=DIGEST))
    found = hub.published()
    assert [one["lanes"][0]["bytes"] for one in found] == [10, 60, 60]
    assert found[-1]["pipelines"][0]["refused"] == {"digest": DIGEST, "why": "tampered"}
    assert {one["site"] for one in found} == {"branch-1"}  # whose certificate it was, not what it says


def test_every_site_is_published_again_and_again(hub: Hub) -> None:
    with hub.store.transaction() as effect:
        hub.reports.publish(effect)
    assert [(one["site"], one["state"]) for one in hub.published()] == [
        ("branch-1", "enrolled"),
        ("branch-2", "invited"),
    ]


def test_a_status_that_is_none_changes_nothing(hub: Hub) -> None:
    hub.heard(status())
    broken, far, farther = status(size=99), status(size=99), status(size=99)
    broken.pipelines[0].digest = "1" * 100
    far.clock.CopyFrom(Timestamp(seconds=2**62))
    farther.rejects.add(reason="no_id", first=Timestamp(seconds=2**62))
    for wrong in (broken, far, farther):
        with pytest.raises(Invalid, match="status"):
            hub.heard(wrong)
    assert len(hub.published()) == 1


def test_a_status_however_large_leaves_room_to_revoke_the_site(hub: Hub) -> None:
    hub.heard(status())
    large, many = status(), status()
    large.pipelines[0].why = "x" * STATUS_BYTES
    many.lanes.extend([pb.SiteLane()] * 20_000)  # two bytes each there, eighty in a report
    for wrong in (large, many):
        with pytest.raises(Invalid, match="bytes, at most"):
            hub.heard(wrong)
    assert len(hub.published()) == 1


def test_a_site_of_which_another_release_kept_something_else_is_told_without_it(hub: Hub) -> None:
    with hub.store.transaction() as effect:
        odd = pb.SiteStatus(lanes=[pb.SiteLane(lane="x" * 99)])
        effect.session.get_one(SiteRow, "branch-1").status = odd.SerializeToString()
    with hub.store.transaction() as effect:
        hub.reports.publish(effect)
    assert [(one["site"], one["lanes"]) for one in hub.published()] == [("branch-1", []), ("branch-2", [])]


def test_of_the_sites_the_worst_one_is_told(hub: Hub, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    hub.heard(status(size=90, refused=DIGEST, ahead=timedelta(seconds=-400)))
    keys.rotate("registry")
    hub.now = datetime.now(UTC) + timedelta(hours=1)
    reads = readings.metrics(hub.store, keys.directory, lambda: hub.now)
    told = {metric: read() for metric, read in reads.items()}
    assert [(value, labels["state"]) for value, labels in told[metrics.SITES]] == [
        (1.0, "invited"),
        (1.0, "enrolled"),
        (0.0, "revoked"),
    ]
    value = {metric: read[0][0] for metric, read in told.items()}
    assert value[metrics.SITE_SPOOL] == 0.9
    assert value[metrics.SITE_CLOCK] == 400
    assert value[metrics.SITE_REFUSALS] == 1
    assert value[metrics.SITE_SILENCE] == (hub.now - START).total_seconds()
    assert 3500 < value[metrics.SITE_TRUST] < 3700
    assert readings.facts(hub.store) == {"sites": "1 site, 1 invited"}
