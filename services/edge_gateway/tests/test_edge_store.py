"""Tables of the hub on a real database, and what people are shown of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.contracts.errors import NotFound, Refused
from penstock.edge_gateway.v1.edge_gateway_pb2 import EnrollSiteRequest, GetSiteRequest, ListSitesRequest
from penstock.runtime.store import Store, assert_migrations_match
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import Tables
from penstock_edge_gateway.token import Token

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)
MIGRATIONS = "penstock_edge_gateway.migrations"


def test_the_migrated_database_is_what_the_tables_say(database: str) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    assert_migrations_match(store, Tables.metadata)
    store.close()


async def test_sites_are_listed_by_name_and_one_that_is_none_is_not_found(
    database: str, tmp_path: Path
) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    sites = Sites(Authority.open(tmp_path, NOW), "hub:9443", lambda: NOW)
    people = PeopleServicer(store, sites, lambda: None, lambda pipeline, entity: None)

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
