"""Serving at a site: what was proven to it, from its own disk; and what takes a version back."""

from __future__ import annotations

import asyncio
import errno
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.contracts.errors import Invalid, NotFound, PenstockError, Unavailable
from penstock.contracts.events import ModelVersion, ModelVersionPromoted
from penstock.packages.admission import Admission, from_artifacts
from penstock.packages.keys import Keys
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings
from penstock.serving.protocol.tensors import Tensor
from penstock.testing.promoting import NAME, Registry
from penstock.testing.wait import until_async
from penstock_edge_gateway.site.engine import tensors_of
from penstock_edge_gateway.site.serving import Missing, Serving
from penstock_edge_gateway.site.signature import verify_apart
from penstock_edge_gateway.site.trial import Bounds, Trial
from penstock_edge_gateway.site.versions import Versions

LENIENT = Bounds(calls=100, errors=0.5, p99_ms=60_000)
ROW = tensors_of([[1.0]], [["car"]])


class Site:
    def __init__(self, folder: Path, root: str) -> None:
        self.folder = folder
        self.registry = Registry.at(folder, KafkaSettings(), root)
        self.readiness = Readiness(lambda: datetime.now(UTC))
        self.reached = threading.Event()  # the hub, by a fetch that waits for it
        self.reached.set()
        self.fetches: list[int] = []  # generations
        self.full_for = 0  # fetches that find the disk full

    @asynccontextmanager
    async def running(self, bounds: Bounds = LENIENT) -> AsyncIterator[Serving]:
        """From its disk, as after a start."""
        admission = Admission(self.fetch, self.folder / "keys", self.folder / "packages")
        serving = Serving(
            Versions(self.folder / "versions"),
            admission,
            bounds,
            self.readiness,
            lambda: datetime.now(UTC),
            lambda _: "",
        )
        await serving.restore()
        running = asyncio.create_task(serving.run())
        yield serving
        self.reached.set()
        assert not running.done()
        running.cancel()

    def fetch(self, version: ModelVersion, folder: Path) -> tuple[Path, Path]:
        self.fetches.append(len(self.fetches))
        self.reached.wait(30)
        if self.full_for:
            self.full_for -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return from_artifacts(self.registry.artifacts.fetch)(version, folder)

    def damage(self, promotion: ModelVersionPromoted) -> None:
        data = bytearray(self.registry.artifacts.read(promotion.version.package))
        data[1000] ^= 1
        self.registry.artifacts.replace(promotion.version.package, bytes(data))

    @property
    def packages(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "packages" / NAME).iterdir())


@pytest.fixture
def site(tmp_path: Path, root: str) -> Site:
    return Site(tmp_path, root)


def generation(serving: Serving) -> int | None:
    model = serving.models.get(NAME)
    return model.generation if model else None


def refused(serving: Serving) -> str:
    kept = serving.kept.get(NAME)
    return kept.refused.reason if kept and kept.refused else ""


async def promoted(serving: Serving, *promotions: ModelVersionPromoted) -> None:
    for promotion in promotions:
        serving.promoted(promotion)
        await until_async(lambda at=promotion.generation: generation(serving) == at)  # type: ignore[misc]


async def test_a_promoted_version_answers_and_again_after_a_start_without_any_network(site: Site) -> None:
    async with site.running() as serving:
        await promoted(serving, site.registry.version())
        first = serving.version(NAME).engine.run(ROW)
    site.registry.artifacts.delete("packages")
    async with site.running() as serving:
        assert serving.version(NAME, "1").engine.run(ROW) == first
        assert first["decision"] == Tensor((1, 1), ["true"])
        assert first["probabilities"].values == pytest.approx([0.25, 0.75])
        assert serving.facts()["serving"].startswith("loans@")


async def test_tensors_unlike_the_inputs_are_the_callers_mistake(site: Site) -> None:
    async with site.running() as serving:
        await promoted(serving, site.registry.version())
        engine = serving.version(NAME).engine
        with pytest.raises(Invalid, match="has the inputs numbers, strings, given are numbers"):
            engine.run({"numbers": ROW["numbers"]})
        with pytest.raises(Invalid, match=r"numbers is \[1, 2\] with 2 values, expected \[N, 1\]"):
            engine.run({**ROW, "numbers": Tensor((1, 2), [1.0, 2.0])})
        with pytest.raises(Invalid, match="different numbers of rows"):
            engine.run({**ROW, "numbers": Tensor((2, 1), [1.0, 2.0])})
        with pytest.raises(Invalid, match="no output 'odds'"):
            engine.run(ROW, ["odds"])
        with pytest.raises(NotFound, match="serves generation 1, not 2"):
            serving.version(NAME, "2")
        with pytest.raises(NotFound, match=r"Did you mean 'loans'\?"):
            serving.version("loan")


async def test_nothing_unproven_serves_and_the_reason_is_visible(site: Site) -> None:
    registry = site.registry
    async with site.running() as serving:
        await promoted(serving, registry.version())
        tampered = registry.version()
        site.damage(tampered)
        serving.promoted(tampered)
        await until_async(lambda: "expected sha256" in refused(serving))
        strange = registry.version(bias=1.0)  # its graph is another than its probe rows were answered by
        serving.promoted(strange)
        await until_async(lambda: "probe row 1 gives decision true, the package" in refused(serving))
        stranger = Keys(site.folder / "stranger")
        stranger.ensure(roles=["registry", "audit", "trainer", "feature_store"])
        serving.promoted(registry.version(keys=stranger))
        await until_async(lambda: "is not in the trust store" in refused(serving))
        serving.promoted(registry.made[0].model_copy(update={"generation": 9}))
        await until_async(lambda: "was signed as generation 1, not 9" in refused(serving))
        assert generation(serving) == 1
    async with site.running() as serving:
        assert generation(serving) == 1
        assert any("refused: " in fact for fact in site.readiness.facts)


async def test_a_version_that_is_missing_or_old_is_told_of(site: Site) -> None:
    """For the fallback, and beside each answer."""
    first, second = site.registry.version(), site.registry.version()
    site.damage(first)
    async with site.running() as serving:
        assert serving.missing(NAME) is None  # nothing was promoted
        serving.promoted(first)
        assert serving.missing(NAME) == Missing("no_version", first.version.pipeline_number)
        await until_async(lambda: refused(serving))
        assert serving.missing(NAME) == Missing("refused_version", first.version.pipeline_number)
        await promoted(serving, second)
        assert serving.missing(NAME) is None
        assert serving.degraded(serving.version(NAME)) is None
        third = site.registry.version()
        site.damage(third)
        serving.promoted(third)
        assert serving.degraded(serving.version(NAME)) == "older_version"
        await until_async(lambda: refused(serving))
        assert serving.degraded(serving.version(NAME)) == "older_version"


async def test_a_replayed_promotion_changes_nothing(site: Site) -> None:
    async with site.running() as serving:
        old, new = site.registry.version(), site.registry.version()
        await promoted(serving, new)

        def offered() -> bool:
            serving.promoted(old)
            return "generation 1 does not rise above 2" in refused(serving)

        await until_async(offered)
        assert generation(serving) == 2


async def test_the_serving_and_the_last_good_package_stay(site: Site) -> None:
    async with site.running() as serving:
        await promoted(serving, *(site.registry.version() for _ in range(3)))
        await until_async(lambda: site.packages == ["2", "3"])


async def test_what_the_disk_damaged_is_fetched_again_and_the_last_good_version_serves_until_then(
    site: Site,
) -> None:
    async with site.running() as serving:
        await promoted(serving, site.registry.version(), site.registry.version())
        serving.version(NAME).model.package.model.write_bytes(b"another graph")
    async with site.running() as serving:
        assert generation(serving) == 1
        await until_async(lambda: generation(serving) == 2)
    async with site.running() as serving:
        assert generation(serving) == 2


async def test_a_revoked_key_takes_what_it_signed_with_it(site: Site) -> None:
    async with site.running() as serving:
        await promoted(serving, site.registry.version())
    site.registry.keys.rotate("registry", revoke=True)
    async with site.running() as serving:
        assert generation(serving) is None
        assert "is not in the trust store" in refused(serving)


async def test_a_version_that_fails_or_is_slow_is_taken_back_for_good(site: Site) -> None:
    async with site.running(Bounds(calls=10, errors=0.1, p99_ms=20)) as serving:
        first, second = site.registry.version(), site.registry.version()
        await promoted(serving, first, second)
        version = serving.version(NAME)
        serving.answered(version, 19)
        serving.answered(version, 21)
        await until_async(lambda: generation(serving) == 1)
        assert refused(serving) == "1 of its first 2 calls took over 20 ms a row"
        serving.promoted(second)
        third = site.registry.version()
        await promoted(serving, third)  # the second was looked at before
        for _ in range(2):
            serving.failed(serving.version(NAME))
        await until_async(lambda: generation(serving) == 1)
        assert refused(serving) == "2 of its first 2 calls failed"
        assert serving.generations() == {NAME: 3}
    async with site.running() as serving:
        assert generation(serving) == 1


async def test_a_version_that_was_proven_is_not_tried_again_after_a_start(site: Site) -> None:
    bounds = Bounds(calls=2, errors=0, p99_ms=60_000)
    async with site.running(bounds) as serving:
        await promoted(serving, site.registry.version(), site.registry.version())
        assert serving.version(NAME).trial
        for _ in range(2):
            serving.answered(serving.version(NAME), 1.0)
        await until_async(lambda: serving.kept[NAME].proven == 2)
    async with site.running(bounds) as serving:
        assert (generation(serving), serving.version(NAME).trial) == (2, None)
        serving.failed(serving.version(NAME))
        await promoted(serving, site.registry.version())
        assert serving.version(NAME).trial, "the next one is"


async def test_a_version_that_fails_is_taken_back_while_a_package_is_waited_for(site: Site) -> None:
    async with site.running(Bounds(calls=10, errors=0.1, p99_ms=60_000)) as serving:
        await promoted(serving, site.registry.version(), site.registry.version())
        site.reached.clear()
        serving.promoted(site.registry.version())
        await until_async(lambda: len(site.fetches) == 3)
        version = serving.version(NAME)
        for _ in range(2):
            serving.failed(version)
        await until_async(lambda: generation(serving) == 1)
        site.reached.set()
        await until_async(lambda: generation(serving) == 3)
        serving.failed(version)
        await until_async(lambda: site.packages == ["1", "3"])


async def test_trust_that_changes_while_a_package_is_waited_for_counts_for_it(site: Site) -> None:
    async with site.running() as serving:
        await promoted(serving, site.registry.version())
        site.reached.clear()
        serving.promoted(site.registry.version())
        await until_async(lambda: len(site.fetches) == 2)
        site.registry.keys.rotate("registry", revoke=True)
        serving.doubt()
        await until_async(lambda: not serving.models)
        site.reached.set()
        await until_async(lambda: serving.kept[NAME].settled == 2)
        assert generation(serving) is None


async def test_a_disk_that_is_too_full_for_a_package_ends_nothing(site: Site) -> None:
    async with site.running() as serving:
        await promoted(serving, site.registry.version())
        site.full_for = 1
        serving.promoted(site.registry.version())
        await until_async(lambda: any("waits: " in fact for fact in site.readiness.facts))
        assert any("No space left on device" in fact for fact in site.readiness.facts)
        await until_async(lambda: generation(serving) == 2)


def test_a_trial_ends() -> None:
    trial = Trial(Bounds(calls=2, errors=0, p99_ms=1))
    assert [trial.answered(1.0), trial.answered(1.0), trial.answered(9.0), trial.failed()] == [None] * 4


def test_the_openssf_signature_is_verified_in_a_process_of_its_own(site: Site) -> None:
    promotion = site.registry.version()
    fetch = from_artifacts(site.registry.artifacts.fetch)
    admission = Admission(fetch, site.folder / "keys", site.folder / "packages", verify_apart)
    package = admission.admit(promotion, None)
    version, trust = promotion.version, site.registry.keys.trust()
    signature = package.directory.parent / "model.sig"
    verify_apart(package.directory, signature, trust, version.digest, version.keyid)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")  # as where there is no memory for it
        with pytest.raises(Unavailable, match="verification failed"):
            verify_apart(package.directory, signature, trust, version.digest, version.keyid)
    signature.write_text("{}")
    with pytest.raises(PenstockError, match=r"model\.sig: the package's signature does not hold"):
        verify_apart(package.directory, signature, trust, version.digest, version.keyid)
