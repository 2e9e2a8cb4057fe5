"""The table of sites: a name is taken once, a token is used once, and what was replaced counts no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from penstock.contracts.errors import Conflict, Denied, Invalid, NotFound
from penstock.runtime.store import Effect, Store
from penstock_edge_gateway import certificates
from penstock_edge_gateway.hub import sites
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import Tables

START = datetime(2026, 11, 30, 6, tzinfo=UTC)
T = TypeVar("T")


class Table:
    """The table and its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.sites = Sites(Authority.open(folder, START), "hub:9443", lambda: self.now)
        self._store = Store.open(f"sqlite:///{folder / 'hub.db'}", Tables.metadata)
        self.close = self._store.close

    def __call__(self, work: Callable[[Effect], T]) -> T:
        with self._store.transaction() as effect:
            return work(effect)

    def enroll(self, site: str = "branch-1", *, replace: bool = False) -> str:
        return self(lambda effect: self.sites.enroll(site, effect, replace=replace)).secret

    def join(self, secret: str, request: bytes) -> str:
        return self(lambda effect: self.sites.join(secret, request, effect)).key or ""

    def holder(self, digest: str) -> str:
        return self(lambda effect: sites.holder(effect.session, digest).name)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    table = Table(tmp_path)
    yield table
    table.close()


def request() -> bytes:
    return certificates.request_of(certificates.new_key())


def test_a_token_that_nobody_used_in_time_frees_the_name(table: Table) -> None:
    table.enroll()
    with pytest.raises(Conflict, match="branch-1: the name is taken: invited since 2026-11-30 06:00 UTC"):
        table.enroll()
    table.now += timedelta(hours=24)
    digest = table.join(table.enroll(), request())
    assert table.holder(digest) == "branch-1"
    table.now += timedelta(days=400)
    with pytest.raises(Conflict, match="enrolled since"):
        table.enroll()


def test_the_machine_that_joined_may_ask_again_and_no_other(table: Table) -> None:
    secret, mine = table.enroll(), request()
    assert table.join(secret, mine) == table.join(secret, mine)
    with pytest.raises(Denied, match="was used"):
        table.join(secret, request())
    with pytest.raises(Invalid, match="certificate_request"):
        table.join(secret, b"")


def test_a_replaced_machine_is_out_and_starts_go_on_rising(table: Table) -> None:
    first = table.join(table.enroll(), request())
    assert table(lambda effect: table.sites.begin("branch-1", None, effect)) == 1
    secret = table.enroll(replace=True)
    with pytest.raises(Denied, match="another machine has its name"):
        table.holder(first)
    second = table.join(secret, request())
    assert table.holder(second) == "branch-1"
    assert table(lambda effect: table.sites.begin("branch-1", None, effect)) == 2


def test_starts_go_on_rising_where_the_database_was_set_back(table: Table) -> None:
    table.join(table.enroll(), request())
    assert table(lambda effect: table.sites.begin("branch-1", None, effect, after=7)) == 8
    assert table(lambda effect: table.sites.begin("branch-1", None, effect, after=7)) == 9


def test_a_revoked_site_needs_a_new_token(table: Table) -> None:
    secret, mine = table.enroll(), request()
    digest = table.join(secret, mine)
    table(lambda effect: table.sites.revoke("branch-1", effect))
    with pytest.raises(Denied, match="revoked at 2026-11-30 06:00:00 UTC"):
        table.holder(digest)
    with pytest.raises(Denied, match="unknown"):
        table.join(secret, mine)
    with pytest.raises(Conflict, match="revoked since"):
        table.enroll()
    assert table.holder(table.join(table.enroll(replace=True), mine)) == "branch-1"
    with pytest.raises(NotFound):
        table(lambda effect: table.sites.revoke("branch-2", effect))


@pytest.mark.parametrize("valid_s", [-1, 0, 31 * 24 * 3600, 2**62])
def test_a_token_holds_for_days_not_years(table: Table, valid_s: int) -> None:
    with pytest.raises(Invalid, match="30 days"):
        table(lambda effect: table.sites.enroll("branch-1", effect, replace=False, valid_s=valid_s))


def test_the_authority_is_made_once_and_the_door_is_handed_what_it_needs(tmp_path: Path) -> None:
    authority, door = Authority.open(tmp_path, START), tmp_path / "sites" / "door.json"
    handed = authority.hand_over(door, START)
    again = Authority.open(tmp_path, START + timedelta(days=59))
    assert again.digest == authority.digest
    assert again.hand_over(door, START + timedelta(days=59)) == handed
    door.unlink()
    later = again.hand_over(door, START + timedelta(days=61))
    assert (later.secret, later.authority) == (handed.secret, handed.authority)
    assert later.certificate != handed.certificate
    assert {path.stat().st_mode & 0o777 for path in (door, tmp_path / "authority.json")} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["authority.json", "sites"]
