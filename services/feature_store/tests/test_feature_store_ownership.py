"""The lake's owner and its database: an owner whose lease cannot be renewed keeps the lake by its
lock, and renews when it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.runtime.readiness import Readiness
from penstock.runtime.store import Store
from penstock.testing.containers import or_skip
from penstock.testing.postgres import PostgresContainer, running_postgres
from penstock.testing.wait import until_async as until
from penstock_feature_store.lake import ownership
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.lake.ownership import Owner, Ownership

pytestmark = pytest.mark.docker


@pytest.fixture
def server() -> Iterator[PostgresContainer]:
    """One of its own, to be stopped."""
    with or_skip(), running_postgres() as server:
        yield server


def now() -> datetime:
    return datetime.now(UTC)


async def test_an_owner_outlives_its_databases_absence(
    server: PostgresContainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went on renewing: each try while the database was away failed, and none ended it."""
    monkeypatch.setattr(ownership, "RENEW_EVERY_S", 0.2)
    with server.database() as url:
        store = Store.open(url, migrations="penstock_feature_store.migrations")
        kept = Ownership(
            Lake(tmp_path / "lake"), store, Owner(replica="0", address="127.0.0.1:1"), Readiness(now), now
        )
        begun, tries, away = asyncio.Event(), [0], [0]
        renew = kept._renew

        async def counted() -> str | None:
            try:
                found = await renew()
            except Exception:
                away[0] += 1
                raise
            tries[0] += 1
            return found

        monkeypatch.setattr(kept, "_renew", counted)

        async def begin() -> None:
            begun.set()

        running = asyncio.create_task(kept.run(begin))
        try:
            await asyncio.wait_for(begun.wait(), 60)
            await asyncio.to_thread(server.container.stop)
            await until(lambda: away[0] >= 2 or running.done(), what="two tries failed")
            assert not running.done(), running.exception()
            assert kept.mine
            await asyncio.to_thread(server.container.start)
            before = tries[0]
            await until(lambda: tries[0] >= before + 2 or running.done(), what="two tries succeeded")
            assert not running.done(), running.exception()
            assert kept.mine
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await asyncio.to_thread(kept.release)
            store.close()
