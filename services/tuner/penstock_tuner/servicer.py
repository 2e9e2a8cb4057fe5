"""gRPC in: validate, call, translate."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts.events import PartitionOffset, TuningStudyRequested
from penstock.cost.v1 import cost_pb2 as pb
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1 import model_registry_pb2_grpc
from penstock.runtime import rpc
from penstock.runtime.costs import cost_message, summed
from penstock.runtime.store import Effect, Store
from penstock.tuner.v1 import tuner_pb2 as tuner
from penstock.tuner.v1 import tuner_pb2_grpc
from penstock_tuner import store as rows
from penstock_tuner.ensemble import wanted
from penstock_tuner.section import asked_for, objectives, parsed
from penstock_tuner.studies import Studies

MAX_LISTED = 500
REGISTRY_TIMEOUT_S = 5.0


class Servicer(tuner_pb2_grpc.TunerServiceServicer):
    def __init__(self, studies: Studies, store: Store, registry_channel: grpc.aio.Channel) -> None:
        self._studies = studies
        self._store = store
        self._registry: Any = model_registry_pb2_grpc.ModelRegistryServiceStub(registry_channel)

    async def CreateStudy(self, request: tuner.CreateStudyRequest, context: rpc.Context) -> tuner.Study:
        # The newest, from the registry itself: a study that follows an `apply` uses what was applied.
        asked = registry.GetPipelineRequest(pipeline=request.pipeline)
        pipeline = await self._registry.GetPipeline(asked, timeout=REGISTRY_TIMEOUT_S)
        requested = TuningStudyRequested(
            study_id=str(ULID()),
            pipeline=pipeline.name,
            pipeline_number=pipeline.number,
            tuner=asked_for(json.loads(pipeline.spec_json).get("tuner", {}), request.trials, request.time_s),
            min_offsets=tuple(
                PartitionOffset(topic=o.topic, partition=o.partition, offset=o.offset)
                for o in request.min_offsets
            ),
            continues=request.continues or None,
            requested_at=self._store.clock(),
            requested_by=request.requested_by,
        )

        def record(effect: Effect) -> tuner.Study:
            study_id = self._studies.request(requested, request.idempotency_key, effect)
            return _with_trials(effect.session, study_id)

        return await self._store.write(record)

    async def GetStudy(self, request: tuner.GetStudyRequest, context: rpc.Context) -> tuner.Study:
        return await self._read(request.study_id)

    async def ListStudies(
        self, request: tuner.ListStudiesRequest, context: rpc.Context
    ) -> tuner.ListStudiesResponse:
        def listed(session: Session) -> tuner.ListStudiesResponse:
            found = rows.newest(session, request.pipeline, min(request.limit or 50, MAX_LISTED))
            return tuner.ListStudiesResponse(studies=rpc.shown(found, partial(_study, session)))

        return await self._store.read(listed)

    async def WatchStudy(
        self, request: tuner.WatchStudyRequest, context: rpc.Context
    ) -> AsyncIterator[tuner.Study]:
        told: tuner.Study | None = None
        async for _ in self._studies.changes.watch(request.study_id):
            study = await self._read(request.study_id)
            if study != told:
                yield changed(study, told) if request.changes_only and told else study
            told = study
            if tuner.Study.State.Name(study.state).removeprefix("STATE_").lower() in rows.ENDED:
                return

    async def CancelStudy(self, request: tuner.CancelStudyRequest, context: rpc.Context) -> tuner.Study:
        def cancel(effect: Effect) -> tuner.Study:
            self._studies.cancel(request.study_id, request.canceled_by, effect)
            return _with_trials(effect.session, request.study_id)

        return await self._store.write(cancel)

    async def ExtendStudy(self, request: tuner.ExtendStudyRequest, context: rpc.Context) -> tuner.Study:
        def extend(effect: Effect) -> tuner.Study:
            self._studies.extend(request.study_id, request.trials, request.time_s, effect)
            return _with_trials(effect.session, request.study_id)

        return await self._store.write(extend)

    async def SumCosts(self, request: pb.SumCostsRequest, context: rpc.Context) -> pb.SumCostsResponse:
        return await self._store.read(lambda session: summed(rows.costs(session), request))

    async def _read(self, study_id: str) -> tuner.Study:
        return await self._store.read(lambda session: _with_trials(session, study_id))


def _with_trials(session: Session, study_id: str) -> tuner.Study:
    found = _study(session, study_id)
    found.trials.extend(_trial(trial) for trial in rows.trials(session, study_id))
    return found


def changed(study: tuner.Study, told: tuner.Study) -> tuner.Study:
    """The study with those of its trials alone that are not as they were told."""
    found, known = tuner.Study(), {trial.number: trial for trial in told.trials}
    found.CopyFrom(study)
    del found.trials[:]
    found.trials.extend(trial for trial in study.trials if trial != known.get(trial.number))
    return found


def _study(session: Session, study_id: str) -> tuner.Study:
    study = rows.study(session, study_id)
    section = parsed(study.requested.tuner)
    longest = section.budget.longest
    return tuner.Study(
        study_id=study.study_id,
        pipeline=study.pipeline,
        pipeline_number=study.pipeline_number,
        state=tuner.Study.State.Value(f"STATE_{study.state.upper()}"),
        best=study.best,
        run_id=(study.run_id or "") if study.state == rows.COMPLETED else "",
        tuner_json=json.dumps(study.requested.tuner) if study.requested.tuner else "",
        training_set_json=study.training_set.model_dump_json() if study.training_set else "",
        failure=study.failure or "",
        remedy=study.remedy or "",
        requested_at=rpc.timestamp(study.requested.requested_at),
        started_at=rpc.timestamp(study.started_at),
        ended_at=rpc.timestamp(study.ended_at),
        attempts=study.attempts,
        requested_by=study.requested.requested_by,
        cost=cost_message(study.cost),
        time_spent_s=study.spent_s,
        conclusion=study.conclusion or "",
        trials_planned=section.budget.trials + bool(wanted(section)) if section.budget.trials else 0,
        time_planned_s=longest.total_seconds() if longest else 0,
        objectives=objectives(section),
        importance=study.importance,
        rule=study.rule or "",
        looks=study.looks or 0,
        trials_ended=rows.ended_trials(session, study_id),
    )


def _trial(trial: rows.TrialRow) -> tuner.Trial:
    return tuner.Trial(
        number=trial.number,
        state=tuner.Trial.State.Value(f"STATE_{trial.state.upper()}"),
        choices_json=json.dumps(trial.choices),
        overrides_json=json.dumps(trial.overrides),
        values=trial.objectives or (),
        metrics=trial.metrics,
        losses=trial.losses,
        weights=trial.weights or "",
        epochs=trial.epochs,
        seconds=trial.seconds,
        processor_s=trial.processor_s,
        memory=trial.memory,
        failure=trial.failure or "",
        started_at=rpc.timestamp(trial.started_at),
        ended_at=rpc.timestamp(trial.ended_at),
        rungs=trial.rungs,
        family=trial.family,
    )
