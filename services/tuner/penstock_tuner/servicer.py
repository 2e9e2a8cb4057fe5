"""gRPC in: validate, call, translate."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial

from sqlalchemy.orm import Session

from penstock.contracts.errors import Unavailable
from penstock.cost.v1 import cost_pb2 as pb
from penstock.runtime import rpc
from penstock.runtime.costs import cost_message, summed
from penstock.runtime.store import Store
from penstock.tuner.v1 import tuner_pb2 as tuner
from penstock.tuner.v1 import tuner_pb2_grpc
from penstock_tuner import store as rows

MAX_LISTED = 500


class Servicer(tuner_pb2_grpc.TunerServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetStudy(self, request: tuner.GetStudyRequest, context: rpc.Context) -> tuner.Study:
        return await self._read(request.study_id)

    async def ListStudies(
        self, request: tuner.ListStudiesRequest, context: rpc.Context
    ) -> tuner.ListStudiesResponse:
        def listed(session: Session) -> tuner.ListStudiesResponse:
            found = rows.newest(session, request.pipeline, min(request.limit or 50, MAX_LISTED))
            return tuner.ListStudiesResponse(studies=rpc.shown(found, partial(_study, session)))

        return await self._store.read(listed)

    async def CreateStudy(self, request: tuner.CreateStudyRequest, context: rpc.Context) -> tuner.Study:
        raise Unavailable("studies cannot be started yet")

    async def WatchStudy(
        self, request: tuner.WatchStudyRequest, context: rpc.Context
    ) -> AsyncIterator[tuner.Study]:
        yield await self._read(request.study_id)

    async def CancelStudy(self, request: tuner.CancelStudyRequest, context: rpc.Context) -> tuner.Study:
        return await self._read(request.study_id)

    async def ExtendStudy(self, request: tuner.ExtendStudyRequest, context: rpc.Context) -> tuner.Study:
        return await self._read(request.study_id)

    async def SumCosts(self, request: pb.SumCostsRequest, context: rpc.Context) -> pb.SumCostsResponse:
        return await self._store.read(lambda session: summed(rows.costs(session), request))

    async def _read(self, study_id: str) -> tuner.Study:
        return await self._store.read(lambda session: _with_trials(session, study_id))


def _with_trials(session: Session, study_id: str) -> tuner.Study:
    study = _study(session, study_id)
    study.trials.extend(_trial(trial) for trial in rows.trials(session, study_id))
    return study


def _study(session: Session, study_id: str) -> tuner.Study:
    study = rows.study(session, study_id)
    return tuner.Study(
        study_id=study.study_id,
        pipeline=study.pipeline,
        pipeline_number=study.pipeline_number,
        state=tuner.Study.State.Value(f"STATE_{study.state.upper()}"),
        best=study.best,
        run_id=study.run_id or "",
        tuner_json=json.dumps(study.tuner),
        training_set_json=study.training_set.model_dump_json() if study.training_set else "",
        failure=study.failure or "",
        remedy=study.remedy or "",
        requested_at=rpc.timestamp(study.requested_at),
        started_at=rpc.timestamp(study.started_at),
        ended_at=rpc.timestamp(study.ended_at),
        attempts=study.attempts,
        requested_by=study.requested_by,
        cost=cost_message(study.cost),
        time_spent_s=study.spent_s,
        conclusion=study.conclusion or "",
    )


def _trial(trial: rows.TrialRow) -> tuner.Trial:
    return tuner.Trial(
        number=trial.number,
        state=tuner.Trial.State.Value(f"STATE_{trial.state.upper()}"),
        choices_json=json.dumps(trial.choices),
        overrides_json=json.dumps(trial.overrides),
        values=trial.objectives or (),
        metrics=trial.metrics,
        weights=trial.weights or "",
        epochs=trial.epochs,
        seconds=trial.seconds,
        processor_s=trial.processor_s,
        memory=trial.memory,
        failure=trial.failure or "",
        started_at=rpc.timestamp(trial.started_at),
        ended_at=rpc.timestamp(trial.ended_at),
    )
