"""What comes from the hub: promotions, packages by ranges through cuts, pipelines, trust. The hub is a
real server of the protocol with answers of our choosing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from pydantic import ValidationError

from penstock.contracts.errors import Conflict, NotFound
from penstock.contracts.validation import Rejected
from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock.edge_gateway.v1 import hub_pb2_grpc, site_pb2
from penstock.packages import trust_updates
from penstock.packages.admission import Admission
from penstock.runtime import rpc
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.testing import lending, packages
from penstock.testing.broker import free_ports
from penstock.testing.promoting import NAME, Registry
from penstock.testing.wait import until_async
from penstock.testing.wire import Wire
from penstock_edge_gateway.pseudonyms import fingerprint
from penstock_edge_gateway.site import fetching
from penstock_edge_gateway.site import reporting as reported
from penstock_edge_gateway.site.fallback import Fallback
from penstock_edge_gateway.site.fetching import ARCHIVE, PackageFetch
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.pipelines import Pipelines
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.rejects import Rejects
from penstock_edge_gateway.site.reporting import Reporting
from penstock_edge_gateway.site.serving import Serving
from penstock_edge_gateway.site.trial import Bounds
from penstock_edge_gateway.site.trust import SiteTrust
from penstock_edge_gateway.site.versions import Versions
from penstock_edge_gateway.site.watch import Watch

Context = grpc.aio.ServicerContext[Any, Any]
RANGE = 4096
NEXT_RELEASE = b"\xfa\x07\x05later"  # field 127 of any message, with five bytes


class HubServicer(hub_pb2_grpc.HubServiceServicer):
    """Offers what is newer than the site says; each call may be cut."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.offers = pb.WatchResponse()
        self.trust_serial = 0
        self.changed = asyncio.Event()
        self.asked: list[tuple[int, int]] = []  # part and offset
        self.cut_at: set[int] = set()  # offsets in the archive, once each
        self.spoiled = False
        self.erased = 0  # serial of the last erasure that the site has confirmed
        self.repeats = False
        self.pseudonym_keys: dict[str, str] = {}  # names of those that the site has
        self.statuses: list[site_pb2.SiteStatus] = []
        self.watching = 0

    def offer(self, **what: Any) -> None:
        self.offers = pb.WatchResponse(**what)
        self.changed.set()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> pb.WatchResponse:
        if self.offers.trust and request.trust_serial >= self.trust_serial:
            self.offers.trust = b""
        self.statuses.append(request.status)
        self.erased = request.erased
        self.pseudonym_keys = dict(request.pseudonym_keys)
        known = dict(request.generations).get(NAME, 0), dict(request.numbers).get(NAME, 0)
        if known[0] >= self.registry.generation:
            self.offers.ClearField("promotions")
        if not self.offers.ByteSize():
            self.changed.clear()
            self.watching += 1
            try:
                await self.changed.wait()
            finally:
                self.watching -= 1
        answer, self.offers = self.offers, self.offers if self.repeats else pb.WatchResponse()
        return answer

    async def FetchPackage(
        self, request: pb.FetchPackageRequest, context: Context
    ) -> pb.FetchPackageResponse:
        self.asked.append((request.part, request.offset))
        if request.part == ARCHIVE and request.offset in self.cut_at:
            self.cut_at.remove(request.offset)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        version = next(one.version for one in self.registry.made if one.version.digest == request.digest)
        artifact = version.package if request.part == ARCHIVE else version.signature
        data = self.registry.artifacts.read(artifact)
        if self.spoiled:
            data = bytes(len(data))
        end = request.offset + request.length
        return pb.FetchPackageResponse(data=data[request.offset : end], size=len(data))


class Site:
    def __init__(self, folder: Path, hub: HubServicer, port: int) -> None:
        self.folder, self.hub, self.port = folder, hub, port
        self.erased: list[tuple[str, str]] = []
        self.trust = SiteTrust(folder)
        self.trust.begin(trust_updates.written(trust_updates.read(hub.registry.keys.directory)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[Serving, Pipelines]]:
        keys, clock = self.folder / "keys", lambda: datetime.now(UTC)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            hub = Hub(channel)
            fetch = PackageFetch(hub, self.folder / "incoming", asyncio.get_running_loop())
            bounds = Bounds(calls=1, errors=0, p99_ms=60_000)
            admission = Admission(fetch, keys, self.folder / "packages")
            pipelines = Pipelines(self.folder / "pipelines", keys)
            versions, readiness = Versions(self.folder / "versions"), Readiness(clock)
            serving = Serving(versions, admission, bounds, readiness, clock, pipelines.stopped)
            pipelines.restore()
            await serving.restore()
            self.rejects = Rejects(clock)
            fallback = Fallback(hub, pipelines, serving.missing)
            reporting = Reporting("branch-1", hub, serving, fallback, self.trust, (), self.rejects, clock)

            async def erase(pipeline: str, entity: str) -> None:
                self.erased.append((pipeline, entity))

            self.pseudonyms = PseudonymKeys(self.folder / "pseudonyms")
            watch = Watch(hub, serving, pipelines, self.trust, self.pseudonyms, reporting, erase)
            tasks = [asyncio.create_task(work()) for work in (serving.run, watch.run)]
            yield serving, pipelines
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # Else its last call takes what the next start is offered.
        await until_async(lambda: not self.hub.watching, what="the hub knows that the site has left")


@pytest.fixture
async def site(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(fetching, "RANGE_BYTES", RANGE)
    registry = Registry.at(tmp_path / "cloud", KafkaSettings(), root)
    hub = HubServicer(registry)
    server = rpc.server()
    hub_pb2_grpc.add_HubServiceServicer_to_server(hub, server)
    (port,) = free_ports(1)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield Site(tmp_path / "site", hub, port)
    await server.stop(0)


async def test_a_promotion_is_fetched_by_ranges_and_goes_on_where_a_cut_ended_one(site: Site) -> None:
    promotion = site.hub.registry.version()
    size = promotion.version.package.size
    site.hub.cut_at = {RANGE, 2 * RANGE}
    async with site.running() as (serving, _):
        site.hub.offer(promotions=[promotion.model_dump_json().encode()])
        await until_async(lambda: serving.models)
    offsets = [offset for part, offset in site.hub.asked if part == ARCHIVE]
    assert offsets == sorted([*range(0, size, RANGE), RANGE, 2 * RANGE])
    assert list((site.folder / "incoming").iterdir()) == []


async def test_a_line_that_is_cut_in_mid_download_costs_no_byte_twice_but_of_one_range(site: Site) -> None:
    promotion = site.hub.registry.version()
    size = promotion.version.package.size
    with Wire(to=site.port) as wire:
        site.port = wire.port
        async with site.running() as (serving, _):
            site.hub.offer(promotions=[promotion.model_dump_json().encode()])
            wire.cut_after(size // 2)
            await until_async(lambda: serving.models)
        assert wire.connections == 2
        assert size < wire.down < size + 2 * RANGE + 10_000  # headers, and what is around the promotion


async def test_a_hub_that_comes_back_with_what_the_site_has_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_edge_gateway.site.watch.AFTER_NONSENSE_S", 0.05)
    registry, file = site.hub.registry, packages.applied(site.hub.registry.keys, number=2)
    has = {
        "promotions": [registry.version().model_dump_json().encode()],
        "pipelines": [file.model_dump_json().encode()],
    }
    with Wire(to=site.port) as wire:
        site.port = wire.port
        async with site.running() as (serving, pipelines):
            site.hub.offer(**has)
            await until_async(lambda: serving.models and pipelines.numbers)
            serves, asked, told = serving.version(NAME), [*site.hub.asked], len(site.hub.statuses)
            wire.cut()
            registry.generation += 1  # it has forgotten what the site knows
            site.hub.repeats = True
            site.hub.offer(**has)
            wire.mend()
            await until_async(lambda: len(site.hub.statuses) > told + 3)
            assert serving.version(NAME) is serves
            assert (site.hub.asked, pipelines.numbers) == (asked, {NAME: 2})
            assert not serving.kept[NAME].refused


async def test_what_was_begun_goes_on_after_a_restart_and_begins_anew_where_it_was_damaged(
    site: Site,
) -> None:
    promotion = site.hub.registry.version()
    begun = site.folder / "incoming" / promotion.version.package.digest[7:]
    begun.parent.mkdir(parents=True)
    begun.write_bytes(bytes(RANGE))  # a power cut left nothing of it but its length
    async with site.running() as (serving, _):
        site.hub.offer(promotions=[promotion.model_dump_json().encode()])
        await until_async(lambda: serving.models)
    offsets = [offset for part, offset in site.hub.asked if part == ARCHIVE]
    whole = list(range(0, promotion.version.package.size, RANGE))
    assert offsets == [*whole[1:], *whole]


async def test_other_bytes_than_the_promoted_ones_are_refused(site: Site) -> None:
    promotion = site.hub.registry.version()
    site.hub.spoiled = True
    async with site.running() as (serving, _):
        site.hub.offer(promotions=[promotion.model_dump_json().encode()])
        await until_async(lambda: NAME in serving.kept)
        refused = serving.kept[NAME].refused
        assert refused
        assert "the hub gave sha256:" in refused.reason
        assert serving.generations() == {NAME: 1}


async def test_a_promotion_that_the_registry_did_not_sign_hides_no_true_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_edge_gateway.site.watch.AFTER_NONSENSE_S", 0.01)
    promotion = site.hub.registry.version()
    forged = promotion.model_copy(update={"generation": 9})
    async with site.running() as (serving, _):
        site.hub.offer(promotions=[b"{}", forged.model_dump_json().encode()])
        await until_async(lambda: not site.hub.changed.is_set())
        site.hub.offer(promotions=[promotion.model_dump_json().encode()])
        await until_async(lambda: serving.models)
        assert serving.generations() == {NAME: 1}


async def test_applied_pipelines_are_kept_and_deleted_ones_are_not(site: Site) -> None:
    keys = site.hub.registry.keys
    unsigned = packages.applied(keys, number=3).model_copy(update={"evidence": None})
    async with site.running() as (_, pipelines):
        with pytest.raises(NotFound, match="this site has no pipeline 'loans'"):
            pipelines.get("loans")
        site.hub.offer(pipelines=[packages.applied(keys, number=2).model_dump_json().encode()])
        await until_async(lambda: pipelines.numbers)
    async with site.running() as (_, pipelines):
        assert pipelines.get("loans").pipeline == "loans"
        assert pipelines.numbers == {"loans": 2}
        site.hub.offer(
            pipelines=[unsigned.model_dump_json().encode()],
            deleted=[packages.deleted(keys, number=2).model_dump_json().encode()],
        )
        await until_async(lambda: not pipelines.numbers)  # or the hub would tell it again
        with pytest.raises(NotFound):
            pipelines.get("loans")
        pipelines.apply(packages.applied(keys, number=2))
        assert pipelines.numbers == {}
    async with site.running() as (_, pipelines):
        assert pipelines.numbers == {}


async def test_a_hub_of_the_next_release_is_understood_as_far_as_this_one_knows(site: Site) -> None:
    registry = site.hub.registry
    promotion = registry.version().model_dump(mode="json") | {"of_the_next_release": {"why": "x"}}
    spec = lending.spec(of_the_next_release={"kept": "30d"})
    applied = packages.applied(registry.keys, spec=spec, number=4).model_dump(mode="json")
    known = pb.WatchResponse(
        promotions=[orjson.dumps(promotion)], pipelines=[orjson.dumps(applied | {"of_the_next_release": 1})]
    )
    async with site.running() as (serving, pipelines):
        site.hub.offers = pb.WatchResponse.FromString(known.SerializeToString() + NEXT_RELEASE)
        site.hub.changed.set()
        await until_async(lambda: serving.models)
        assert pipelines.numbers == {NAME: 4}
        assert pipelines.get(NAME) == lending.pipeline()


async def test_news_of_a_kind_that_this_release_does_not_know_are_not_asked_for_again_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_edge_gateway.site.watch.AFTER_NONSENSE_S", 0.2)
    site.hub.repeats = True
    site.hub.offers = pb.WatchResponse.FromString(NEXT_RELEASE)
    began = time.monotonic()
    async with site.running() as (serving, _):
        await until_async(lambda: len(site.hub.statuses) > 3)
        assert time.monotonic() - began > 0.5
        site.hub.repeats = False
        site.hub.offer(promotions=[site.hub.registry.version().model_dump_json().encode()])
        await until_async(lambda: serving.models)


async def test_a_key_for_pseudonyms_is_taken_of_an_applied_pipeline_alone(site: Site) -> None:
    key, file = bytes(range(32)), packages.applied(site.hub.registry.keys)
    async with site.running():
        site.hub.offer(
            pipelines=[file.model_dump_json().encode()], pseudonym_keys={"loans": key, "../cards": key}
        )
        await until_async(lambda: site.pseudonyms.fingerprints)
        await until_async(lambda: site.hub.pseudonym_keys)
    assert site.hub.pseudonym_keys == {"loans": fingerprint(key)}
    assert [one.name for one in (site.folder / "pseudonyms").iterdir()] == ["loans.key"]


async def test_a_file_that_a_newer_release_alone_reads_is_told_once_and_the_one_before_holds(
    site: Site,
) -> None:
    keys = site.hub.registry.keys
    later = packages.applied(keys, spec=lending.spec(model={"type": "of_the_next_release"}), number=3)
    async with site.running() as (_, pipelines):
        site.hub.offer(pipelines=[packages.applied(keys, number=2).model_dump_json().encode()])
        await until_async(lambda: pipelines.numbers == {NAME: 2})
        site.hub.offer(pipelines=[later.model_dump_json().encode()])
        await until_async(lambda: pipelines.numbers == {NAME: 3})
        assert pipelines.get(NAME) == lending.pipeline()
        with pytest.raises(ValidationError):
            pipelines.apply(later)
        pipelines.apply(packages.applied(keys, number=4))
        assert pipelines.numbers == {NAME: 4}
        pipelines.delete(packages.deleted(keys, number=4))
        with pytest.raises(ValidationError):
            pipelines.apply(packages.applied(keys, spec=later.spec, number=5))
        pipelines.delete(packages.deleted(keys, number=5))
        assert pipelines.numbers == {}


async def test_what_is_stopped_does_not_answer_here_either_after_a_restart_too(site: Site) -> None:
    registry = site.hub.registry
    stopped = lending.spec(serving={"stopped": "wrong for women"})

    def file(number: int, spec: dict[str, Any]) -> bytes:
        return packages.applied(registry.keys, number=number, spec=spec).model_dump_json().encode()

    async with site.running() as (serving, _):
        site.hub.offer(
            pipelines=[file(1, lending.spec())], promotions=[registry.version().model_dump_json().encode()]
        )
        await until_async(lambda: serving.models)
        site.hub.offer(pipelines=[file(2, stopped)])
        await until_async(lambda: not serving.models)
        with pytest.raises(Conflict, match="loans is stopped: wrong for women"):
            serving.version(NAME)
        assert serving.facts() == {"stopped loans": "loans is stopped: wrong for women"}
    async with site.running() as (serving, pipelines):
        assert serving.kept[NAME].serving, "its package stays here"
        assert not serving.models
        assert serving.facts() == {"stopped loans": "loans is stopped: wrong for women"}
        site.hub.offer(pipelines=[file(3, lending.spec())])
        await until_async(lambda: serving.models)
        assert pipelines.numbers == {NAME: 3}
        assert serving.version(NAME).model.generation == 1
        assert list(serving.facts()) == ["serving"]


@pytest.mark.parametrize("kept", [b"{", None], ids=["damaged", "not signed"])
async def test_a_site_that_cannot_read_whether_a_model_was_stopped_has_it_wait_for_the_hub(
    site: Site, kept: bytes | None
) -> None:
    registry, spec = site.hub.registry, lending.spec(serving={"stopped": "wrong for women"})
    stopped = packages.applied(registry.keys, number=2, spec=spec)
    unsigned = stopped.model_copy(update={"evidence": None}).model_dump_json().encode()
    async with site.running() as (serving, pipelines):
        site.hub.offer(promotions=[registry.version().model_dump_json().encode()])
        await until_async(lambda: serving.models)
        pipelines.apply(stopped)
    (site.folder / "pipelines" / f"{NAME}.json").write_bytes(kept or unsigned)
    async with site.running() as (serving, pipelines):
        assert not serving.models
        with pytest.raises(Conflict, match="loans is stopped: its file at this site cannot be read"):
            serving.version(NAME)
        assert pipelines.numbers == {}, "so the hub tells it again"
        site.hub.offer(pipelines=[stopped.model_dump_json().encode()])
        await until_async(lambda: pipelines.numbers)
        with pytest.raises(Conflict, match="loans is stopped: wrong for women"):
            serving.version(NAME)
    (site.folder / "pipelines" / f"{NAME}.json").write_bytes(kept or unsigned)
    async with site.running() as (serving, pipelines):
        assert not serving.models
        site.hub.offer(pipelines=[packages.applied(registry.keys, number=3).model_dump_json().encode()])
        await until_async(lambda: serving.models)


async def test_an_erasure_is_carried_out_and_confirmed(site: Site) -> None:
    async with site.running():
        site.hub.offer(erasures=[pb.Erasure(serial=3, pipeline="loans", entity="a1")])
        await until_async(lambda: site.hub.erased == 3)
    assert site.erased == [("loans", "a1")]


async def test_what_changes_nothing_here_is_not_asked_for_again_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_edge_gateway.site.watch.AFTER_NONSENSE_S", 0.2)
    site.hub.repeats = True
    site.hub.offer(deleted=[packages.deleted(site.hub.registry.keys, number=2).model_dump_json().encode()])
    began = time.monotonic()
    async with site.running():
        await until_async(lambda: len(site.hub.statuses) > 3)
    assert time.monotonic() - began > 0.5


async def test_a_key_that_was_revoked_takes_back_what_it_signed(site: Site) -> None:
    registry = site.hub.registry
    async with site.running() as (serving, _):
        site.hub.offer(promotions=[registry.version().model_dump_json().encode()])
        await until_async(lambda: serving.models)
        registry.keys.rotate("audit", revoke=True)
        updates = trust_updates.read(registry.keys.directory)
        site.hub.trust_serial = 2**40
        site.hub.offer(trust=trust_updates.written(updates))
        await until_async(lambda: not serving.models)
        refused = serving.kept[NAME].refused
        await until_async(lambda: site.hub.statuses[-1].pipelines)
        serves = site.hub.statuses[-1].pipelines[0]
        assert site.hub.statuses[-1].features == ["edge.pseudonymize", "serving.stopped"]
        assert refused
        assert "is not in the trust store" in refused.reason
        assert (serves.pipeline, serves.generation) == (NAME, 1)


async def test_a_change_of_the_status_is_told_at_once_and_a_count_with_the_next_call(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reported, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(reported, "CALM_S", 0.02)
    much = Rejected("wrong_type", "income", "much", "`income` must be a number, not a text")
    slipped = Rejected("unknown_field", "Mary", None, "the source declares no field `Mary`")
    async with site.running():
        site.rejects.count(NAME, "applications", [much])
        await until_async(lambda: site.hub.statuses and site.hub.statuses[-1].rejects)
        site.rejects.count(NAME, "applications", [much, much])
        await asyncio.sleep(0.2)  # nothing is told in this time
        told = len(site.hub.statuses)
        site.rejects.count(NAME, "applications", [slipped])
        await until_async(lambda: len(site.hub.statuses) > told)
    first, second = site.hub.statuses[-1].rejects
    assert len(site.hub.statuses) == told + 1
    assert (first.reason, first.events, first.field, first.detail) == ("wrong_type", 3, "income", much.detail)
    assert (second.reason, second.events) == ("unknown_field", 1)
    assert b"Mary" not in second.SerializeToString()
