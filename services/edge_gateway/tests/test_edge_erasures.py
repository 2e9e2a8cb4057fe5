"""An erased person leaves each site, and nothing of them comes from one that has not done it yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.edge_gateway.v1.edge_gateway_pb2 import EraseAtSitesRequest
from penstock.edge_gateway.v1.hub_pb2 import Forwarded, ForwardRequest, SpooledEvent
from penstock.runtime.kafka.messages import BY_KEY, Produced
from penstock.runtime.store import Effect, Store
from penstock_edge_gateway.hub import erasures
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.forward import positions
from penstock_edge_gateway.hub.forward.lanes import batch_of
from penstock_edge_gateway.hub.forward.write import Write
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import ENROLLED, INVITED, REVOKED, ErasureRow, SiteRow, Tables
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.spool import Record, Spool

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)
Do = Callable[[Callable[[Effect], Any]], Any]


@pytest.fixture
def do(database: str) -> Iterator[Do]:
    store = Store.open(database, Tables.metadata)

    def do(work: Callable[[Effect], Any]) -> Any:
        with store.transaction() as effect:
            return work(effect)

    yield do
    store.close()


def pending(effect: Effect, name: str) -> list[tuple[int, str]]:
    row = effect.session.get_one(SiteRow, name)
    return [(one.serial, one.entity) for one in erasures.pending(effect.session, row)]


def test_an_erasure_waits_for_each_site_and_is_forgotten_once_all_have_done_it(do: Do) -> None:
    states = {"branch-1": (ENROLLED, 0), "branch-2": (INVITED, 3), "new": (INVITED, 0), "gone": (REVOKED, 2)}
    rows = [
        SiteRow(name=name, state=state, since=NOW, incarnation=starts, erased=0)
        for name, (state, starts) in states.items()
    ]
    do(lambda effect: effect.session.add_all(rows))
    assert do(lambda effect: erasures.ask(effect, "loans", "p3")) == (1, ["branch-1", "branch-2"])
    assert do(lambda effect: erasures.ask(effect, "loans", "p4")) == (2, ["branch-1", "branch-2"])
    do(lambda effect: erasures.confirm(effect, "branch-1", 1))
    assert do(lambda effect: pending(effect, "branch-1")) == [(2, "p4")]
    assert do(lambda effect: pending(effect, "branch-2")) == [(1, "p3"), (2, "p4")]
    do(lambda effect: erasures.confirm(effect, "branch-2", 99))  # no more than was asked
    assert do(lambda effect: [one.serial for one in effect.session.query(ErasureRow)]) == [2]
    do(lambda effect: erasures.confirm(effect, "branch-1", 2))
    assert do(lambda effect: effect.session.query(ErasureRow).count()) == 0
    assert do(lambda effect: erasures.newest(effect.session)) == 2, "serials go on rising"


def test_a_person_is_erased_under_its_pseudonym_too_and_told_of_where_it_may_stand(
    do: Do, database: str
) -> None:
    row = SiteRow(name="branch-1", state=ENROLLED, since=NOW, incarnation=1, erased=0)
    do(lambda effect: effect.session.add(row))
    store = Store.open(database, Tables.metadata)
    people = PeopleServicer(store, None, lambda: None, lambda pipeline, entity: f"{pipeline}-{entity}", list)  # type: ignore[arg-type]
    asked = people.EraseAtSites(EraseAtSitesRequest(pipeline="loans", entity="p3"), None)  # type: ignore[arg-type]
    answer = asyncio.run(asked)
    store.close()
    assert (answer.serial, list(answer.sites), answer.pseudonym) == (2, ["branch-1"], "loans-p3")
    assert do(lambda effect: pending(effect, "branch-1")) == [(1, "p3"), (2, "loans-p3")]


def test_a_revoked_site_keeps_no_name_of_whom_it_was_to_erase(do: Do, tmp_path: Path) -> None:
    row = SiteRow(name="branch-1", state=ENROLLED, since=NOW, incarnation=1, erased=0)
    do(lambda effect: effect.session.add(row))
    do(lambda effect: erasures.ask(effect, "loans", "p3"))
    sites = Sites(Authority.open(tmp_path, NOW), "hub:9443", lambda: NOW)
    do(lambda effect: sites.revoke("branch-1", effect))
    assert do(lambda effect: effect.session.query(ErasureRow).count()) == 0
    assert do(lambda effect: erasures.newest(effect.session)) == 1, "serials go on rising"


def test_without_a_site_nothing_is_kept_of_whom_was_erased(do: Do) -> None:
    assert do(lambda effect: erasures.ask(effect, "loans", "p3")) == (1, [])
    assert do(lambda effect: effect.session.query(ErasureRow).count()) == 0


def test_what_a_site_forwards_of_an_erased_person_is_dropped_and_counts_as_reached() -> None:
    def translate(_: str, record: Forwarded) -> Produced:
        return Produced("t", BY_KEY, record.event.event, b"")

    people = [("loans", b"p3"), ("loans", b"p4"), ("cards", b"p3")]
    records = [
        Forwarded(event=SpooledEvent(pipeline=pipeline, source="s", event=entity))
        for pipeline, entity in people
    ]
    request = ForwardRequest(lane="events", incarnation=1, epoch="e", first=1, records=records)
    write = Write({}, translate)
    reached = write.add(batch_of("branch-1", request, frozenset({("loans", b"p3")})))
    assert (reached.sequence, reached.rejected) == (3, {})
    assert [one.key for one in write.messages if one.topic != positions.TOPIC] == [b"p4", b"p3"]


async def test_a_lane_has_erased_only_when_nothing_that_was_read_before_is_under_way(tmp_path: Path) -> None:
    with Spool(tmp_path / "events.db", durable=False, size=10_000_000) as spool:
        lane = Lane("events", spool)
        await lane.keep([Record("loans", "people", entity, b"{}") for entity in ("p3", "p4")])
        async with lane.oldest(10, 1000) as batch:
            erasing = asyncio.create_task(lane.erase("loans", "p3"))
            await asyncio.to_thread(spool.read, 10, 1000)
            assert (len(batch.entries), erasing.done()) == (2, False)
        await asyncio.wait_for(erasing, 5)
        assert [one for one in spool.read(10, 1000).entries if isinstance(one, Record)] == [
            Record("loans", "people", "p4", b"{}")
        ]
