"""gRPC in: validate, call, translate."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import PurePath
from typing import Any

import grpc
from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts.errors import Invalid
from penstock.contracts.events import Imported, PartitionOffset, TrainingRunRequested
from penstock.contracts.overrides import overridden
from penstock.cost.v1 import cost_pb2 as pb
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1 import model_registry_pb2_grpc
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.costs import cost_message, summed
from penstock.runtime.store import Effect, Store
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.trainer.v1 import trainer_pb2_grpc
from penstock_trainer import store as rows
from penstock_trainer.pace import Pace
from penstock_trainer.receiving import receive
from penstock_trainer.runs import Runs

MAX_LISTED = 500
MAX_NAME = 256
MAX_OVERRIDES = 16_384
REGISTRY_TIMEOUT_S = 5.0


class Servicer(trainer_pb2_grpc.TrainerServiceServicer):
    def __init__(
        self, runs: Runs, store: Store, registry_channel: grpc.aio.Channel, artifacts: Artifacts
    ) -> None:
        self._artifacts = artifacts
        self._runs = runs
        self._store = store
        self._registry: Any = model_registry_pb2_grpc.ModelRegistryServiceStub(registry_channel)

    async def CreateRun(self, request: trainer.CreateRunRequest, context: rpc.Context) -> trainer.Run:
        # The newest, from the registry itself: a run that follows an `apply` uses what was applied.
        pipeline = await self._newest(request.pipeline)
        overrides = _overrides(request.overrides_json)
        overridden(json.loads(pipeline.spec_json), overrides)
        requested = TrainingRunRequested(
            run_id=str(ULID()),
            pipeline=pipeline.name,
            pipeline_number=pipeline.number,
            reason="requested",
            overrides=overrides,
            min_offsets=_offsets(request.min_offsets),
            requested_at=self._store.clock(),
            requested_by=request.requested_by,
        )
        return await self._record(requested, request.idempotency_key)

    async def ImportModel(
        self, requests: AsyncIterator[trainer.ImportModelRequest], context: rpc.Context
    ) -> trainer.Run:
        first = await anext(requests, None)
        if first is None:
            raise Invalid("nothing was sent", where="pipeline")
        pipeline = await self._newest(first.pipeline)

        async def chunks() -> AsyncIterator[bytes]:
            yield first.chunk
            async for request in requests:
                yield request.chunk

        graph = await receive(chunks(), pipeline.name, self._artifacts)
        name = PurePath(first.name).name[:MAX_NAME] or "model.onnx"
        requested = TrainingRunRequested(
            run_id=str(ULID()),
            pipeline=pipeline.name,
            pipeline_number=pipeline.number,
            reason="requested",
            min_offsets=_offsets(first.min_offsets),
            requested_at=self._store.clock(),
            requested_by=first.imported_by,
            imported=Imported(graph=graph, name=name, by=first.imported_by),
        )
        return await self._record(requested, first.idempotency_key)

    async def GetRun(self, request: trainer.GetRunRequest, context: rpc.Context) -> trainer.Run:
        return await self._read(request.run_id)

    async def ListRuns(
        self, request: trainer.ListRunsRequest, context: rpc.Context
    ) -> trainer.ListRunsResponse:
        def listed(session: Session) -> trainer.ListRunsResponse:
            found = rows.newest(session, request.pipeline, min(request.limit or 50, MAX_LISTED))
            return trainer.ListRunsResponse(runs=rpc.shown(found, partial(_run, session)))

        return await self._store.read(listed)

    async def WatchRun(
        self, request: trainer.WatchRunRequest, context: rpc.Context
    ) -> AsyncIterator[trainer.Run]:
        told: trainer.Run | None = None
        async for _ in self._runs.changes.watch(request.run_id):
            run = await self._read(request.run_id)
            if run != told:
                yield run
            told = run
            if trainer.Run.State.Name(run.state).removeprefix("STATE_").lower() in rows.ENDED:
                return

    async def CancelRun(self, request: trainer.CancelRunRequest, context: rpc.Context) -> trainer.Run:
        def cancel(effect: Effect) -> trainer.Run:
            self._runs.cancel(request.run_id, request.canceled_by, effect)
            return _run(effect.session, request.run_id)

        return await self._store.write(cancel)

    async def SumCosts(self, request: pb.SumCostsRequest, context: rpc.Context) -> pb.SumCostsResponse:
        return await self._store.read(lambda session: summed(rows.costs(session), request))

    async def _newest(self, pipeline: str) -> registry.Pipeline:
        """The pipeline as it was last applied."""
        request = registry.GetPipelineRequest(pipeline=pipeline)
        found: registry.Pipeline = await self._registry.GetPipeline(request, timeout=REGISTRY_TIMEOUT_S)
        return found

    async def _record(self, requested: TrainingRunRequested, key: str) -> trainer.Run:
        def record(effect: Effect) -> trainer.Run:
            return _run(effect.session, self._runs.request(requested, key, effect))

        return await self._store.write(record)

    async def _read(self, run_id: str) -> trainer.Run:
        return await self._store.read(lambda session: _run(session, run_id))


def _offsets(said: Iterable[trainer.PartitionOffset]) -> tuple[PartitionOffset, ...]:
    return tuple(PartitionOffset(topic=o.topic, partition=o.partition, offset=o.offset) for o in said)


def _overrides(text: str) -> dict[str, Any]:
    if len(text) > MAX_OVERRIDES:
        raise Invalid(f"has more than {MAX_OVERRIDES:,} characters", where="overrides_json")
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        raise Invalid(f"is no JSON: {error}", where="overrides_json") from error
    if not isinstance(found, dict):
        raise Invalid(
            "is no JSON object",
            where="overrides_json",
            remedy='Write dotted keys and values: {"trainer.epochs": 5}',
        )
    return found


def _run(session: Session, run_id: str) -> trainer.Run:
    return _message(rows.run(session, run_id), rows.epochs(session, run_id))


def _message(run: rows.RunRow, epochs: list[rows.EpochRow]) -> trainer.Run:
    return trainer.Run(
        run_id=run.run_id,
        pipeline=run.pipeline,
        pipeline_number=run.pipeline_number,
        state=trainer.Run.State.Value(f"STATE_{run.state.upper()}"),
        reason=run.reason,
        digest=run.digest or "",
        epochs=[_epoch(epoch) for epoch in epochs],
        epochs_planned=run.epochs_planned,
        metrics=run.metrics or {},
        training_set_json=run.training_set.model_dump_json() if run.training_set else "",
        failure=run.failure or "",
        remedy=run.remedy or "",
        requested_at=rpc.timestamp(run.requested_at),
        started_at=rpc.timestamp(run.started_at),
        ended_at=rpc.timestamp(run.ended_at),
        attempts=run.attempts,
        requested_by=run.requested_by,
        cost=cost_message(run.cost),
        imported_from=run.imported.name if run.imported else "",
        imported_digest=run.imported.graph.digest if run.imported else "",
        chosen_json=json.dumps(run.chosen) if run.chosen else "",
        chosen_because=run.chosen_because or "",
        pace=_pace(run.pace),
    )


def _epoch(epoch: rows.EpochRow) -> trainer.Epoch:
    return trainer.Epoch(pace=_pace(epoch.pace), **{name: getattr(epoch, name) for name in rows.CURVE})


def _pace(pace: Pace | None) -> trainer.Pace | None:
    return trainer.Pace(**pace.model_dump(), bottleneck=pace.bottleneck) if pace else None
