"""Between a wish and its job: which pipeline file, which rows.

Asks the feature store for the run's training set, and waits while it is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

import grpc
import structlog

from penstock.contracts.errors import Kind, NotFound, PenstockError, Unavailable
from penstock.contracts.events import TrainingSet
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1.feature_store_pb2_grpc import FeatureStoreServiceStub
from penstock.runtime.backoff import Backoff
from penstock.runtime.rpc import rpc_error
from penstock.runtime.store import Store
from penstock_trainer.overrides import effective
from penstock_trainer.runs import Runs
from penstock_trainer.store import PipelineRow, RunRow, newest_number, runs_in

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
PIPELINE_PATIENCE = timedelta(seconds=60)
"""How long a wish may be ahead of the pipeline it names."""


class Waits(Protocol):
    def waits_for(self, thing: str, why: str) -> None: ...
    def has(self, thing: str) -> None: ...


class TrainingSets(Protocol):
    """Where training sets come from: the feature store."""

    async def create(self, row: RunRow) -> TrainingSet:
        """The run's training set; the same id gives the same set. Raises PenstockError: Unavailable to be asked again."""


class FeatureStore:
    def __init__(self, channel: grpc.aio.Channel, deadline_s: float) -> None:
        self._stub = FeatureStoreServiceStub(channel)
        self._deadline_s = deadline_s

    async def create(self, row: RunRow) -> TrainingSet:
        request = pb.CreateTrainingSetRequest(
            pipeline=row.pipeline,
            id=row.run_id,
            min_offsets=[pb.PartitionOffset(**offset) for offset in row.min_offsets],
            pipeline_number=row.number,
        )
        try:
            answer = await self._stub.CreateTrainingSet(request, timeout=self._deadline_s)
        except grpc.RpcError as error:
            raise rpc_error(error) from error
        return TrainingSet.model_validate_json(answer.training_set_json)


class Preparer:
    def __init__(self, store: Store, runs: Runs, sets: TrainingSets, waits: Waits, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._runs = runs
        self._sets = sets
        self._waits = waits
        self._clock = clock
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._waiting: set[str] = set()

    async def run(self) -> None:
        """A background task: every run that has no job yet gets one, or fails with the reason."""
        try:
            while True:
                self._runs.requested.clear()
                with self._store.read() as session:
                    waiting = [row.run_id for row in runs_in(session, "requested", "preparing")]
                for run_id in waiting:
                    if run_id not in self._preparing:
                        self._preparing[run_id] = asyncio.create_task(self._guard(run_id, self._prepare(run_id)))
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._runs.requested.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._preparing.values():
                task.cancel()

    async def _guard(self, run_id: str, work: Awaitable[None]) -> None:
        try:
            await work
        except PenstockError as error:
            self._fail(run_id, error)
        except Exception as error:
            log.exception("preparing_broken", run=run_id)
            self._fail(
                run_id, PenstockError(f"the run could not be prepared: {error}", remedy="Look for preparing_broken in the trainer's log")
            )
        finally:
            self._preparing.pop(run_id, None)
            self._settled(run_id)

    async def _prepare(self, run_id: str) -> None:
        with self._store.read() as session:
            row = session.get(RunRow, run_id)
            assert row is not None
            known = session.get(PipelineRow, (row.pipeline, row.number))
            newest = newest_number(session, row.pipeline)
        if known is None:
            self._may_still_come(row, newest)
            return  # looked at again with the next event or after LOOK_EVERY_S
        pipeline = effective(known.spec, row.overrides)
        self._runs.prepare(run_id)
        backoff = Backoff(first=0.5, longest=10.0)
        while True:
            try:
                training_set = await self._sets.create(row)
                break
            except Unavailable as error:
                delay = backoff.next()
                self._waiting.add(run_id)
                self._waits.waits_for("feature_store", f"{error.message}, for run {run_id}, again in {delay:.0f} s")
                await asyncio.sleep(delay)
                if self._ended(run_id):
                    return
        self._runs.start(run_id, pipeline, training_set)

    def _may_still_come(self, row: RunRow, newest: int) -> None:
        named = f"number {row.number} of pipeline `{row.pipeline}`"
        if newest > row.number:
            raise NotFound(f"{named} is gone: the trainer never saw it, and {newest} was applied since", remedy="Start the run again")
        if self._clock() - row.requested_at > PIPELINE_PATIENCE:
            raise NotFound(f"{named} was never applied", remedy="Apply it with `penstock apply FILE` and start the run again")

    def _ended(self, run_id: str) -> bool:
        with self._store.read() as session:
            row = session.get(RunRow, run_id)
        return row is None or row.ended

    def _fail(self, run_id: str, error: PenstockError) -> None:
        message = f"{error.where}: {error.message}" if error.where else error.message
        with self._store.transaction() as effect:
            self._runs.fail(run_id, Kind(error.kind), message, error.remedy or "", effect)

    def _settled(self, run_id: str) -> None:
        self._waiting.discard(run_id)
        if not self._waiting:
            self._waits.has("feature_store")
