"""Things that a study's job asks of other services: pipeline, training set, and what was tried before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from penstock.contracts.events import TrainingSet, TuningStudyRequested
from penstock.contracts.overrides import for_trials
from penstock.contracts.pipeline import Pipeline
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1 import model_registry_pb2_grpc
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys
from penstock.runtime.child import JobContext
from penstock.runtime.patience import patiently
from penstock.tuner.v1 import tuner_pb2, tuner_pb2_grpc
from penstock_tuner import search
from penstock_tuner.search import Tried

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Before:
    """A study as earlier attempts left it."""

    tried: tuple[Tried, ...]
    spent_s: float
    last_failure: str


async def spec_of(
    job: JobContext, pipeline: str, number: int, tuner: Mapping[str, JsonValue] | None
) -> dict[str, JsonValue]:
    """The pipeline file as numbered, with a study's `tuner` section in place of its own."""
    found = await patiently(
        job,
        "model_registry",
        lambda channel: model_registry_pb2_grpc.ModelRegistryServiceStub(channel).GetPipeline,
        registry.GetPipelineRequest(pipeline=pipeline, number=number),
        TIMEOUT_S,
    )
    spec = for_trials(json.loads(found.spec_json))
    return spec if tuner is None else spec | {"tuner": dict(tuner)}


async def training_set_of(job: JobContext, requested: TuningStudyRequested) -> TrainingSet:
    """The study's training set, made once, with the study's id. Waits while the feature store is away."""
    made = await patiently(
        job,
        "feature_store",
        lambda channel: feature_store_pb2_grpc.FeatureStoreServiceStub(channel).CreateTrainingSet,
        features.CreateTrainingSetRequest(
            pipeline=requested.pipeline,
            id=requested.study_id,
            min_offsets=[features.PartitionOffset(**at.model_dump()) for at in requested.min_offsets],
            pipeline_number=requested.pipeline_number,
        ),
        job.settings.training_set_timeout,
    )
    training_set = TrainingSet.model_validate_json(made.training_set_json)
    verify_fact(training_set, Keys(job.settings.platform.keys).trust())
    return training_set


async def before(job: JobContext, study_id: str) -> Before:
    """Trials, time and last failure of the study so far, from its rows."""
    study = await _study(job, study_id)
    failures = [trial.failure for trial in study.trials if trial.failure]
    return Before(tuple(map(_tried, study.trials)), study.time_spent_s, failures[-1] if failures else "")


async def known(job: JobContext, study_id: str, pipeline: Pipeline) -> list[Tried]:
    """Trials of the earlier study that lie in the pipeline's space. Raises NotFound, and Conflict where
    it split its rows another way or minimised something else.
    """
    study = await _study(job, study_id)
    section = json.loads(study.tuner_json or "{}")  # of a file without one it is empty
    theirs = await spec_of(job, study.pipeline, study.pipeline_number, section)
    search.same_split(pipeline, Pipeline.model_validate(theirs))
    return search.known(search.space_of(pipeline), [*map(_tried, study.trials)])


async def _study(job: JobContext, study_id: str) -> tuner_pb2.Study:
    return await patiently(
        job,
        "tuner",
        lambda channel: tuner_pb2_grpc.TunerServiceStub(channel).GetStudy,
        tuner_pb2.GetStudyRequest(study_id=study_id),
        TIMEOUT_S,
    )


def _tried(trial: tuner_pb2.Trial) -> Tried:
    state: Any = tuner_pb2.Trial.State.Name(trial.state).removeprefix("STATE_").lower()
    return Tried(
        number=trial.number,
        choices=json.loads(trial.choices_json),
        state=state,
        values=tuple(trial.values) or None,
        losses=tuple(trial.losses),
        rungs=tuple(trial.rungs),
        metrics=dict(trial.metrics),
    )
