"""Leases: one owner at a time, the next when it ends or is dropped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from penstock.runtime.leases import drop_lease, holder_of, take_lease
from penstock.runtime.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LENGTH = timedelta(seconds=15)


def test_a_lease_has_one_owner_until_it_ends_or_is_dropped(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/x.db")

    def takes(owner: str, seconds: float) -> bool:
        with store.transaction() as effect:
            return take_lease(effect, "lake", owner, NOON + timedelta(seconds=seconds), LENGTH)

    def drops(owner: str) -> str | None:
        with store.transaction() as effect:
            drop_lease(effect, "lake", owner)
            return holder_of(effect, "lake")

    assert takes("a", 0)
    assert not takes("b", 14)
    assert takes("a", 14)
    assert not takes("b", 20)
    assert drops("b") == "a", "another's stays"
    assert takes("b", 29)
    assert drops("b") is None
    assert takes("a", 29)
    store.close()
