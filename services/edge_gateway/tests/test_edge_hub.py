"""The hub's door for sites: who was revoked, or started again elsewhere, gets nothing any more; one hub
of several forwards.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.contracts.errors import Denied, Invalid, Refused, Unavailable
from penstock.contracts.site_door import CERTIFICATE_HEADER, DOOR_HEADER
from penstock.edge_gateway.v1.hub_pb2 import (
    FetchPackageRequest,
    Forwarded,
    ForwardRequest,
    Gap,
    HelloRequest,
    InferRequest,
    JoinRequest,
    WatchRequest,
)
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.testing import lending
from penstock.testing.wait import until
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.callers import Callers
from penstock_edge_gateway.hub.forward import lease
from penstock_edge_gateway.hub.forward.forwarder import Forwarder, _Asked
from penstock_edge_gateway.hub.forward.lanes import Batch, Lane, Position
from penstock_edge_gateway.hub.forward.lease import Lease
from penstock_edge_gateway.hub.hub_servicer import JOINING, HubServicer
from penstock_edge_gateway.hub.news import News
from penstock_edge_gateway.hub.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.hub.questions import Questions
from penstock_edge_gateway.hub.reports import Reports
from penstock_edge_gateway.hub.shelf import Shelf
from penstock_edge_gateway.hub.sites import Sites
from penstock_edge_gateway.hub.store import ENROLLED, SiteRow, Tables

START = datetime(2026, 11, 30, 6, tzinfo=UTC)
KEY = "a" * 64


class Context:
    """A call as Envoy hands it on, of the site whose certificate has the digest KEY."""

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(DOOR_HEADER, "secret"), (CERTIFICATE_HEADER, f"Hash={KEY};Subject=x")]

    def time_remaining(self) -> float:
        return 60.0


class NoQuestions(Questions):
    """The way to a platform that nobody may ask here."""

    def __init__(self) -> None:
        pass

    async def ask(self, *asked: Any) -> Any:
        raise AssertionError(asked)


class Hub:
    """A hub with one site, which does not forward: Kafka is away."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        self.news = News("penstock.edge_gateway", Keys(folder / "keys"), PseudonymKeys(folder))
        self.sites = Sites(Authority.open(folder, START), "hub:9443", lambda: START)
        forwarder = Forwarder(
            KafkaSettings(),
            self.news.declared,
            Lease(store, "0", lambda: START),
            Readiness(lambda: START),
        )
        shelf = Shelf(Artifacts(f"file://{folder}/artifacts"), folder / "packages", self.news.version)
        callers, reports = Callers(store, "secret"), Reports(lambda: START)
        self.servicer = HubServicer(
            store, self.sites, callers, reports, self.news, shelf, forwarder, NoQuestions()
        )
        with store.transaction() as effect:
            effect.session.add(SiteRow(name="branch-1", state=ENROLLED, since=START, key=KEY))
        self.incarnation = self.begin()

    def begin(self) -> int:
        with self.store.transaction() as effect:
            return self.sites.begin("branch-1", None, effect)

    def revoke(self) -> None:
        with self.store.transaction() as effect:
            self.sites.revoke("branch-1", effect)

    def heard(self) -> bool:
        with self.store.snapshot() as session:
            return session.get_one(SiteRow, "branch-1").status is not None

    async def ask(self, method: str, request: Any) -> Any:
        return await getattr(self.servicer, method)(request, Context())


@pytest.fixture
async def hub(tmp_path: Path) -> Any:
    store = await asyncio.to_thread(Store.open, f"sqlite:///{tmp_path / 'hub.db'}", Tables.metadata)
    made = await asyncio.to_thread(Hub, tmp_path, store)
    yield made
    await asyncio.to_thread(store.close)


async def test_of_two_machines_with_one_key_the_older_start_gets_nothing_any_more(hub: Hub) -> None:
    await asyncio.to_thread(hub.begin)
    for method, request in (
        ("Forward", ForwardRequest(lane="events", incarnation=hub.incarnation, epoch="a", first=1)),
        ("Watch", WatchRequest(incarnation=hub.incarnation)),
        ("Infer", InferRequest(incarnation=hub.incarnation)),
    ):
        with pytest.raises(Refused, match="start 1 of this site was followed by start 2"):
            await hub.ask(method, request)


async def test_a_site_that_is_revoked_while_it_waits_is_told_nothing_more(hub: Hub) -> None:
    waiting = asyncio.create_task(hub.ask("Watch", WatchRequest(incarnation=hub.incarnation)))
    await asyncio.to_thread(until, hub.heard, what="the hub has heard of the site")
    await asyncio.to_thread(hub.revoke)
    hub.news.changed()
    with pytest.raises(Denied, match="was revoked"):
        await asyncio.wait_for(waiting, 10)
    for method, request in (
        ("FetchPackage", FetchPackageRequest(digest="sha256:" + "a" * 64)),
        ("Infer", InferRequest(incarnation=hub.incarnation)),
    ):
        with pytest.raises(Denied, match="was revoked"):
            await hub.ask(method, request)


async def test_a_site_that_is_not_told_a_file_asks_by_fields_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.news, "held_back", lambda features: ["loans"])
    asked = InferRequest(incarnation=hub.incarnation)
    asked.question.pipeline, asked.question.tensors = "loans", b"of columns that only their version knows"
    with pytest.raises(Denied, match="sends no tensors"):
        await hub.ask("Infer", asked)
    asked.question.fields.SetInParent()
    with pytest.raises(AssertionError):  # the platform was asked
        await hub.ask("Infer", asked)


async def test_who_tries_tokens_takes_no_sites_place_at_the_database(hub: Hub, tmp_path: Path) -> None:
    Keys(tmp_path / "keys").ensure()
    tries = (hub.ask("Join", JoinRequest(token="guessed")) for _ in range(50))
    told = Counter(map(type, await asyncio.gather(*tries, return_exceptions=True)))
    assert told == {Invalid: JOINING, Unavailable: 50 - JOINING}


async def test_while_kafka_is_away_a_site_is_told_to_come_again(hub: Hub) -> None:
    with pytest.raises(Unavailable, match="this hub does not forward"):
        await hub.ask("Hello", HelloRequest())
    with pytest.raises(Unavailable, match="this hub does not forward"):
        await hub.ask(
            "Forward", ForwardRequest(lane="events", incarnation=hub.incarnation, epoch="a", first=1)
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path / 'hub.db'}")
    yield store
    store.close()


def test_one_hub_forwards_until_its_lease_ends_or_is_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.0)
    monkeypatch.setattr(lease, "LOOK_EVERY_S", 0.0)
    now = [START]
    first, second = (Lease(store, name, lambda: now[0]) for name in ("0", "1"))
    assert first.take()
    assert not second.take()
    assert second.why == "replica 0 does"
    now[0] += timedelta(seconds=14)
    assert first.take()
    now[0] += timedelta(seconds=14)
    assert not second.take()
    now[0] += timedelta(seconds=2)
    assert second.take()
    assert not first.take()
    second.drop()
    assert first.take()


LANE = Lane("branch-1", "events")


def forwarder_at(sequence: int, lease: Lease) -> Forwarder:
    """A forwarder in a session, whose lane has reached the sequence."""
    made = Forwarder(KafkaSettings(), lambda _: lending.pipeline(), lease, Readiness(lambda: START))
    made._positions = {LANE: Position("e", sequence, 1)}
    return made


def gap(first: int) -> _Asked:
    """A batch of two sequences."""
    return _Asked(Batch(LANE, 1, "e", first, [Forwarded(gap=Gap(records=2))]), Future())


def test_a_hub_that_lost_its_lease_answers_nothing_from_the_positions_it_knew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction, in which Kafka would fence it, stands behind the answer to a repeated batch."""
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.0)
    now = [START]
    first, second = (Lease(store, name, lambda: now[0]) for name in ("0", "1"))
    forwarder, before, after = forwarder_at(5, first), gap(4), gap(4)
    assert first.take()
    forwarder._answer([before])
    assert before.answer.result(0).sequence == 5
    now[0] += timedelta(seconds=16)
    assert second.take()
    with pytest.raises(Unavailable, match="replica 1 does"):
        forwarder._answer([after])
    with pytest.raises(Unavailable, match="replica 1 does"):
        after.answer.result(0)


def test_of_a_lane_the_earlier_batch_counts_first_where_the_later_overtook_it(store: Store) -> None:
    forwarder, earlier, later = forwarder_at(5, Lease(store, "0", lambda: START)), gap(6), gap(8)
    forwarder._transactions = SimpleNamespace(begin=int, produce=len, commit=int)  # type: ignore[assignment]
    forwarder._answer([later, earlier])
    assert [one.answer.result(0).sequence for one in (earlier, later)] == [7, 9]
