"""Tables of the hub on a real database, and what people are shown of them."""

from __future__ import annotations

import pytest

from penstock.contracts.errors import NotFound
from penstock.edge_gateway.v1.edge_gateway_pb2 import GetSiteRequest, ListSitesRequest
from penstock.runtime.store import Store, assert_migrations_match
from penstock_edge_gateway.hub.people_servicer import PeopleServicer
from penstock_edge_gateway.hub.store import SiteRow, Tables

MIGRATIONS = "penstock_edge_gateway.hub.migrations"


def test_the_migrated_database_is_what_the_tables_say(database: str) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    assert_migrations_match(store, Tables.metadata)
    store.close()


async def test_sites_are_listed_by_name_and_one_that_is_none_is_not_found(database: str) -> None:
    store = Store.open(database, Tables.metadata, migrations=MIGRATIONS)
    people = PeopleServicer(store)

    def enroll(name: str) -> SiteRow:
        return SiteRow(name=name, state="enrolled", certificate=f"{name:>064}", incarnation=3)

    await store.write(lambda effect: effect.session.add_all([enroll("plant-2"), enroll("branch-1")]))
    listed = await people.ListSites(ListSitesRequest(), None)  # type: ignore[arg-type]
    assert [(site.name, site.state, site.incarnation) for site in listed.sites] == [
        ("branch-1", "enrolled", 3),
        ("plant-2", "enrolled", 3),
    ]
    with pytest.raises(NotFound, match="no site `branch-9`"):
        await people.GetSite(GetSiteRequest(site="branch-9"), None)  # type: ignore[arg-type]
    store.close()
