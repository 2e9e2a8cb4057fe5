"""A site goes on believing whom the registry names, over rotations that it missed, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.contracts.errors import Tampered
from penstock.packages import trust_updates
from penstock.packages.keys import Keys
from penstock_edge_gateway.site.trust import SiteTrust


def told(keys: Keys) -> bytes:
    return trust_updates.written(trust_updates.read(keys.directory))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    keys = Keys(tmp_path / "hub" / "keys")
    keys.ensure()
    return keys


@pytest.fixture
def site(tmp_path: Path, keys: Keys) -> SiteTrust:
    site = SiteTrust(tmp_path / "site")
    site.begin(told(keys))
    return site


def test_a_site_follows_rotations_that_it_missed(keys: Keys, site: SiteTrust) -> None:
    older = told(keys)
    assert not site.follow(older)
    before, signed_at = site.serial, site.signed_at
    assert signed_at
    leaked = keys.signer("registry").keyid
    keys.rotate("audit")
    keys.rotate("registry", revoke=True)
    assert site.follow(told(keys))
    trusted = Keys(site.folder).trust().keys
    assert site.serial > before
    assert leaked not in trusted
    assert {keys.signer("registry").keyid, keys.signer("audit").keyid} <= trusted.keys()
    assert site.signed_at == trust_updates.newest(trust_updates.read(keys.directory))[1] > signed_at
    assert not site.follow(older), "a replayed store brings no revoked key back"
    assert leaked not in Keys(site.folder).trust().keys


def test_a_store_that_a_cut_left_behind_is_made_anew(keys: Keys, site: SiteTrust, tmp_path: Path) -> None:
    store = site.folder / "trust.json"
    older = store.read_bytes()
    keys.rotate("registry", revoke=True)
    assert site.follow(told(keys))
    newer = store.read_bytes()
    store.write_bytes(older)
    again = SiteTrust(tmp_path / "site")
    assert store.read_bytes() == newer
    assert not again.follow(told(keys))
    assert SiteTrust(tmp_path / "none").folder.exists() is False


def test_another_hubs_keys_are_not_believed(keys: Keys, site: SiteTrust, tmp_path: Path) -> None:
    thief = Keys(tmp_path / "thief" / "keys")
    thief.ensure()
    thief.rotate("registry")
    before = Keys(site.folder).trust()
    for wrong in (told(thief), b"{}", b"[1]"):
        with pytest.raises(Tampered):
            site.follow(wrong)
    assert Keys(site.folder).trust() == before


def test_a_damaged_store_ends_no_start_and_what_it_showed_counts_on(
    keys: Keys, site: SiteTrust, tmp_path: Path
) -> None:
    counted = Keys(site.folder).trust()
    (site.folder / "followed.json").write_bytes(b"{torn")
    with capture_logs() as logs:
        again = SiteTrust(tmp_path / "site")
    assert [entry["event"] for entry in logs] == ["trust_damaged"]
    assert Keys(again.folder).trust() == counted
    with pytest.raises(Tampered, match="cannot be read"):
        again.follow(told(keys))
    again.begin(told(keys))
    assert again.serial == site.serial
