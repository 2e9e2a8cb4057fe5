"""gRPC: pipelines, versions, promotion, packages. Translates, nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
from sqlalchemy.orm import Session

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.verdicts import WAITS
from penstock.model_registry.v1 import model_registry_pb2 as pb
from penstock.model_registry.v1 import model_registry_pb2_grpc as pb_grpc
from penstock.runtime.rpc import shown, timestamp
from penstock.runtime.store import Store
from penstock_model_registry import store as rows
from penstock_model_registry.packages import Packages
from penstock_model_registry.pipelines import Pipelines
from penstock_model_registry.registry import Registry
from penstock_model_registry.store import PipelineRow, VersionRow

Context = grpc.aio.ServicerContext[Any, Any]
_STATES = {
    "registered": pb.Version.STATE_REGISTERED,
    "refused": pb.Version.STATE_REFUSED,
    "promoted": pb.Version.STATE_PROMOTED,
    "retired": pb.Version.STATE_RETIRED,
}
# Name of a caller who gave none. A name is not an identity until there is access control.
_UNNAMED = "unnamed"


class Servicer(pb_grpc.ModelRegistryServiceServicer):
    def __init__(self, store: Store, pipelines: Pipelines, registry: Registry, packages: Packages) -> None:
        self._store = store
        self._pipelines = pipelines
        self._registry = registry
        self._packages = packages

    async def ApplyPipeline(
        self, request: pb.ApplyPipelineRequest, context: Context
    ) -> pb.ApplyPipelineResponse:
        applied = await self._pipelines.apply(
            request.text,
            request.file or "pipeline.yaml",
            by=request.applied_by or _UNNAMED,
            dry_run=request.dry_run,
        )
        return pb.ApplyPipelineResponse(
            pipeline=applied.pipeline,
            number=applied.number,
            changed=applied.changed,
            problems=[
                pb.Problem(line=one.line, column=one.column, key=one.key, message=one.message)
                for one in applied.problems
            ],
        )

    async def DeletePipeline(
        self, request: pb.DeletePipelineRequest, context: Context
    ) -> pb.DeletePipelineResponse:
        deleted = await self._pipelines.deletions.delete(request.pipeline, by=request.deleted_by or _UNNAMED)
        return pb.DeletePipelineResponse(
            pipeline=request.pipeline,
            number=deleted.number,
            versions=deleted.versions,
            topics=deleted.topics,
        )

    async def ListPipelines(
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesResponse:
        return await self._store.read(
            lambda session: pb.ListPipelinesResponse(
                pipelines=shown(
                    rows.names(session), lambda name: _pipeline(session, rows.pipeline_row(session, name))
                )
            )
        )

    async def GetPipeline(self, request: pb.GetPipelineRequest, context: Context) -> pb.Pipeline:
        return await self._store.read(
            lambda session: _pipeline(session, rows.pipeline_row(session, request.pipeline, request.number))
        )

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: Context
    ) -> pb.ListVersionsResponse:
        def listed(session: Session) -> pb.ListVersionsResponse:
            rows.pipeline_row(session, request.pipeline)
            found = rows.versions_of(session, request.pipeline)
            return pb.ListVersionsResponse(
                versions=shown(found, lambda digest: _version(session, session.get_one(VersionRow, digest)))
            )

        return await self._store.read(listed)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.Version:
        return await self._one(request.version)

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.Version:
        return await self._one(
            await self._registry.promote(request.version, by=request.promoted_by or _UNNAMED)
        )

    async def RollBack(self, request: pb.RollBackRequest, context: Context) -> pb.Version:
        if not request.pipeline:
            raise Invalid("say which pipeline", where="pipeline")
        return await self._one(
            await self._registry.roll_back(
                request.pipeline,
                by=request.rolled_back_by or _UNNAMED,
                from_generation=request.from_generation,
            )
        )

    async def FetchPackage(
        self, request: pb.FetchPackageRequest, context: Context
    ) -> AsyncIterator[pb.FetchPackageResponse]:
        row = await self._store.read(lambda session: rows.find_version(session, request.version))
        if not row.signed:
            raise Conflict(
                f"the version's package was not accepted: {'; '.join(row.because)}", where=row.digest
            )
        chunks = self._packages.stream(row.version)
        try:
            while chunk := await asyncio.to_thread(next, chunks, b""):
                yield pb.FetchPackageResponse(chunk=chunk)
        finally:
            await asyncio.to_thread(chunks.close)

    async def _one(self, reference: str) -> pb.Version:
        return await self._store.read(
            lambda session: _version(session, rows.find_version(session, reference))
        )


def _pipeline(session: Session, row: PipelineRow) -> pb.Pipeline:
    event = row.applied
    champion = rows.champion_of(session, row.name)
    return pb.Pipeline(
        name=row.name,
        number=row.number,
        text=row.text,
        spec_json=json.dumps(event.spec),
        applied_at=timestamp(event.applied_at),
        applied_by=event.applied_by,
        promoted_digest=champion.digest if champion else "",
        generation=champion.generation if champion else 0,
    )


def _version(session: Session, row: VersionRow) -> pb.Version:
    version, audit, promotion = row.version, row.audit, rows.last_promotion(session, row.digest)
    return pb.Version(
        pipeline=row.pipeline,
        digest=row.digest,
        state=_STATES[row.state],
        generation=promotion.generation if promotion else 0,
        run_id=row.run_id,
        keyid=version.keyid,
        metrics=version.metrics,
        because=row.because,
        registered_at=timestamp(row.registered_at),
        promoted_at=timestamp(promotion.promoted_at) if promotion else None,
        version_json=version.model_dump_json(),
        verdict=audit.verdict if audit else "",
        not_judged=audit is not None and not audit.gates,
        waits_for_review=row.state == "refused" and WAITS in row.because,
    )
