"""The gRPC surface, over a real channel; Kafka only where a pipeline is applied."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from penstock.contracts.error_details import error_of_call
from penstock.contracts.errors import Conflict, Invalid, NotFound, Refused, Tampered, Unavailable
from penstock.contracts.events import ModelVersion
from penstock.model_registry.v1 import model_registry_pb2 as pb
from penstock.model_registry.v1.model_registry_pb2_grpc import (
    ModelRegistryServiceStub,
    add_ModelRegistryServiceServicer_to_server,
)
from penstock.packages.signing import verify_package
from penstock.runtime import rpc
from penstock.runtime.settings import KafkaSettings
from penstock.testing import lending
from penstock.testing import packages as sample
from penstock.testing.packages import gate
from penstock_model_registry.deletion import Deletions
from penstock_model_registry.lease import TopicsLease
from penstock_model_registry.pipelines import Pipelines
from penstock_model_registry.servicer import Servicer

if TYPE_CHECKING:
    from conftest import World

NOBODY = KafkaSettings(bootstrap_servers="127.0.0.1:1")


@asynccontextmanager
async def served(
    world: World,
) -> AsyncIterator[ModelRegistryServiceStub]:
    server = rpc.server()
    clock = lambda: datetime.now(UTC)  # noqa: E731
    changing = TopicsLease(world.store, "0", clock)
    deletions = Deletions(world.store, NOBODY, world.keys, world.artifacts, clock, changing)
    pipelines = Pipelines(world.store, NOBODY, world.keys, deletions, clock)
    servicer = Servicer(world.store, pipelines, world.registry, world.packages)
    add_ModelRegistryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ModelRegistryServiceStub(channel)
    finally:
        await server.stop(None)


@asynccontextmanager
async def refusing(error: type[Exception], said: str) -> AsyncIterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    told = error_of_call(caught.value)
    assert isinstance(told, error), told
    assert said in str(told)


async def test_versions_tell_their_whole_story(world: World) -> None:
    first = await world.promotes("one")
    second = await world.promotes("two", audit_id="A2")
    run = world.run(card="# bad\n", run_id="R3")
    await world.receives(run)
    await world.receives(
        world.audit(run.digest, gate("fail", on_fail="block"), sample.AUROC_PASSED, audit_id="A3")
    )
    async with served(world) as registry:
        listed = (await registry.ListVersions(pb.ListVersionsRequest(pipeline="loans"))).versions
        assert [version.digest for version in listed] == [run.digest, second, first]
        assert [version.state for version in listed] == [
            pb.Version.STATE_REFUSED,
            pb.Version.STATE_PROMOTED,
            pb.Version.STATE_RETIRED,
        ]
        assert [version.generation for version in listed] == [0, 2, 1]
        assert [version.verdict for version in listed] == ["fail", "pass", "pass"]
        assert "equalized_odds" in listed[0].because[0]
        assert not any(version.waits_for_review for version in listed)
        waiting = world.run(card="# unsure\n", run_id="R4")
        await world.receives(waiting)
        await world.receives(
            world.audit(waiting.digest, gate("inconclusive"), sample.AUROC_PASSED, audit_id="A4")
        )
        newest = await registry.GetVersion(pb.GetVersionRequest(version=waiting.digest))
        assert (newest.state, newest.waits_for_review) == (pb.Version.STATE_REFUSED, True)
        version = await registry.GetVersion(pb.GetVersionRequest(version=f"loans@{second[7:15]}"))
        made = ModelVersion.model_validate_json(version.version_json).training_set
        assert made.model_copy(update={"evidence": None}) == sample.training_set()
        assert version.promoted_at.ToDatetime() > version.registered_at.ToDatetime()
        pipeline = await registry.GetPipeline(pb.GetPipelineRequest(pipeline="loans"))
        assert (pipeline.promoted_digest, pipeline.generation, pipeline.number) == (second, 2, 1)
        back = await registry.RollBack(pb.RollBackRequest(pipeline="loans", rolled_back_by="Ada"))
        assert (back.digest, back.generation, back.state) == (first, 3, pb.Version.STATE_PROMOTED)
        again = await registry.Promote(pb.PromoteRequest(version=second, promoted_by="Ada"))
        assert (again.generation, again.state) == (4, pb.Version.STATE_PROMOTED)


async def test_a_fetched_package_can_be_verified_by_who_fetched_it(world: World, tmp_path: Path) -> None:
    digest = await world.promotes("one")
    async with served(world) as registry:
        content = b"".join(
            [part.chunk async for part in registry.FetchPackage(pb.FetchPackageRequest(version=digest))]
        )
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(tmp_path / "got", filter="data")
        version = world.promotions()[0].version
        verify_package(
            tmp_path / "got" / "package",
            tmp_path / "got" / "model.sig",
            world.keys.trust(),
            digest,
            version.keyid,
        )
        Path(version.package.uri.removeprefix("file://")).write_bytes(b"changed")
        async with refusing(Tampered, "expected sha256"):
            [part async for part in registry.FetchPackage(pb.FetchPackageRequest(version=digest))]


async def test_a_package_that_was_not_accepted_is_not_handed_out(world: World) -> None:
    run = world.run()
    world.artifacts.delete("packages")
    await world.receives(run)
    async with served(world) as registry, refusing(Conflict, "not accepted"):
        [part async for part in registry.FetchPackage(pb.FetchPackageRequest(version=run.digest))]


async def test_wrong_requests_are_told_what_is_wrong(world: World) -> None:
    digest = await world.promotes("one")
    run = world.run(card="# two\n")
    await world.receives(run)
    await world.receives(world.audit(run.digest, gate("fail", on_fail="block"), sample.AUROC_PASSED))
    async with served(world) as registry:
        async with refusing(NotFound, "no pipeline `other`. There is loans"):
            await registry.GetPipeline(pb.GetPipelineRequest(pipeline="other"))
        async with refusing(NotFound, "number 9"):
            await registry.GetPipeline(pb.GetPipelineRequest(pipeline="loans", number=9))
        async with refusing(NotFound, "penstock models"):
            await registry.GetVersion(pb.GetVersionRequest(version="00000000"))
        async with refusing(Invalid, "at least its first 4 digits"):
            await registry.GetVersion(pb.GetVersionRequest(version="loans"))
        async with refusing(Refused, "penstock report"):
            await registry.Promote(pb.PromoteRequest(version=run.digest))
        async with refusing(Conflict, "was promoted before"):
            await registry.RollBack(pb.RollBackRequest(pipeline="loans"))
        async with refusing(Invalid, "which pipeline"):
            await registry.RollBack(pb.RollBackRequest())
        listed = (await registry.ListVersions(pb.ListVersionsRequest(pipeline="loans"))).versions
        assert [version.digest for version in listed if version.state == pb.Version.STATE_PROMOTED] == [
            digest
        ]


async def test_a_bad_file_is_shown_with_its_places_and_the_same_text_changes_nothing(world: World) -> None:
    async with served(world) as registry:
        bad = lending.PIPELINE_TEXT.replace("applications.defaulted", "applications.default").replace(
            "at_least", "at_mst"
        )
        answer = await registry.ApplyPipeline(pb.ApplyPipelineRequest(text=bad, file="loans.yaml"))
        assert not answer.changed
        assert [(problem.line > 1, problem.key) for problem in answer.problems] == [
            (True, "audit.gates[0].at_mst")
        ]
        same = await registry.ApplyPipeline(pb.ApplyPipelineRequest(text=lending.PIPELINE_TEXT))
        assert (same.number, same.changed) == (1, False)
        trial = await registry.ApplyPipeline(
            pb.ApplyPipelineRequest(text=lending.PIPELINE_TEXT + "# more\n", dry_run=True)
        )
        assert (trial.number, trial.changed) == (2, True)
        assert (await registry.GetPipeline(pb.GetPipelineRequest(pipeline="loans"))).number == 1


@pytest.mark.slow
async def test_without_kafka_nothing_is_applied_and_it_is_said(world: World) -> None:
    async with served(world) as registry:
        async with refusing(Unavailable, "127.0.0.1:1"):
            await registry.ApplyPipeline(pb.ApplyPipelineRequest(text=lending.PIPELINE_TEXT + "# more\n"))
        assert (await registry.GetPipeline(pb.GetPipelineRequest(pipeline="loans"))).number == 1
