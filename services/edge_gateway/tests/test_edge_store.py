"""Tables of the hub on a real database, and what people are shown of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.contracts.errors import NotFound, Refused
from penstock.edge_gateway.v1.edge_gateway_pb2 import (
    EnrollSiteRequest,
    GetSiteRequest,
    ListSitesRequest,
    ListSitesResponse,
)
from penstock.edge_gateway.v1.site_pb2 import SiteLane, SiteStatus
from penstock.runtime.store import Effect, Store, assert_migrations_match
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import SiteRow, Tables
from penstock_edge_gateway.token import Token

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)
MIGRATIONS = "penstock_edge_gateway.migrations"


def test_the_migrated_database_is_what_the_tables_say(database: str) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    assert_migrations_match(store, Tables.metadata)
    store.close()


def servicer(store: Store, sites: Sites) -> PeopleServicer:
    """A hub whose only file asks for one feature, and that makes no pseudonyms."""

    def held_back(features: Iterable[str]) -> list[str]:
        return [] if "edge.pseudonymize" in features else ["loans"]

    return PeopleServicer(store, sites, lambda: None, lambda pipeline, entity: None, held_back)


async def test_sites_are_listed_by_name_and_one_that_is_none_is_not_found(
    database: str, tmp_path: Path
) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    sites = Sites(Authority.open(tmp_path, NOW), "hub:9443", lambda: NOW)
    people = servicer(store, sites)

    for name in ("plant-2", "branch-1"):
        made = await people.EnrollSite(EnrollSiteRequest(site=name), None)  # type: ignore[arg-type]
        assert Token.read(made.token).site == name
    clock = NOW + timedelta(hours=1)
    assert await store.write(lambda effect: sites.begin("branch-1", clock, effect)) == 1
    with pytest.raises(Refused, match="start 1 of this site was followed by start 2, which called 0 s ago"):
        await store.write(
            lambda effect: (
                sites.begin("plant-2", NOW, effect),
                sites.begin("plant-2", NOW, effect),
                sites.begin("plant-2", NOW, effect, superseded=1),
            )
        )
    listed = await people.ListSites(ListSitesRequest(), None)  # type: ignore[arg-type]
    assert [(site.name, site.state, site.incarnation, site.clock_ahead.seconds) for site in listed.sites] == [
        ("branch-1", "invited", 1, 3600),
        ("plant-2", "invited", 0, 0),
    ]
    with pytest.raises(NotFound, match="there is no site 'branch-9'"):
        await people.GetSite(GetSiteRequest(site="branch-9"), None)  # type: ignore[arg-type]
    store.close()


async def test_a_thousand_sites_are_listed_in_answers_that_every_client_takes(
    database: str, tmp_path: Path
) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    people = servicer(store, Sites(Authority.open(tmp_path, NOW), "hub:9443", lambda: NOW))
    lanes = [SiteLane(lane="events", records=number) for number in range(500)]
    status = SiteStatus(lanes=lanes, features=["edge.pseudonymize"]).SerializeToString()
    names = [f"branch-{number:04}" for number in range(1000)]

    def fill(effect: Effect) -> None:
        for number, name in enumerate(names):
            said = (None, b"", status)[number % 3]
            effect.session.add(SiteRow(name=name, state="enrolled", since=NOW, status=said))

    await store.write(fill)
    pages, token = [ListSitesResponse()], ""
    while not pages[-1].sites or (token := pages[-1].next_page_token):
        request = ListSitesRequest(page_token=token, page_size=700)
        pages.append(await people.ListSites(request, None))  # type: ignore[arg-type]
    listed = [site for page in pages for site in page.sites]
    assert [site.name for site in listed] == names
    whole = await people.ListSites(ListSitesRequest(), None)  # type: ignore[arg-type]
    assert list(whole.sites) == listed, "a client that knows no pages takes one answer for all"
    few = await people.ListSites(ListSitesRequest(page_token=names[3], page_size=2), None)  # type: ignore[arg-type]
    assert ([site.name for site in few.sites], few.next_page_token) == (names[4:6], names[5])
    assert max(page.ByteSize() for page in pages) < 2 << 20
    assert (len(listed[2].status.lanes), list(listed[2].held_back)) == (500, [])
    store.close()
