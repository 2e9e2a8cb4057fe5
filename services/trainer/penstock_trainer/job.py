"""The training job: a process of its own that fetches, trains, packages. `python -m
penstock_trainer.job` is started by the runtime. What every run needs is imported here: its fork
server loads it once, with torch for seconds, and no run does.

A job that was killed goes on from its checkpoint: the training set is the same (it is made once for
a run's id), and so are the weights.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penstock.contracts.digests import digits_of
from penstock.contracts.errors import Conflict
from penstock.contracts.events import Imported, StudyReference, TrainingRunRequested, TrainingSet
from penstock.contracts.overrides import for_trials, overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.planning import BY_ROWS, Plan, planned
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1 import model_registry_pb2_grpc
from penstock.modelkit.baselines import baselines
from penstock.modelkit.build import Built, build
from penstock.modelkit.training import Loop
from penstock.packages import archive
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys
from penstock.packages.parts import Origin
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.child import JobContext, job_main
from penstock.runtime.patience import patiently
from penstock_trainer.packaging import package
from penstock_trainer.receiving import received
from penstock_trainer.settings import Settings
from penstock_trainer.workers.choice import spread

REGISTRY_TIMEOUT_S = 10.0
LIKELY_ROWS = 10_000  # of a training set that is still being put together


def run(job: JobContext) -> dict[str, Any]:
    settings: Settings = job.settings
    requested = TrainingRunRequested.model_validate(job.payload)
    job.progress({"attempt": job.attempt})
    applied = asyncio.run(_pipeline(job, requested))
    if requested.imported is not None:
        training_set = asyncio.run(_training_set(job, requested))
        job.progress({"training_set": training_set, "epochs": 0})
        plan = planned(applied, training_set.rows.get("train", 0))
        return _import(job, plan.pipeline, training_set, settings, requested.imported)
    work, likely = settings.runs_dir / job.id, planned(applied, LIKELY_ROWS).pipeline
    with spread(likely, work / "workers", settings, job.progress) as loop:
        training_set = asyncio.run(_training_set(job, requested))
        plan = planned(applied, training_set.rows.get("train", 0))
        told = {"chosen": dict(plan.chosen), "chosen_because": plan.because}
        job.progress({"training_set": training_set, "epochs": plan.pipeline.trainer.epochs, **told})
        artifacts = Artifacts(settings.platform.artifact_roots)
        return _train(job, plan, training_set, work, artifacts, requested.study, loop)


async def _pipeline(job: JobContext, requested: TrainingRunRequested) -> Pipeline:
    """The pipeline as numbered in the request with its overrides. A study's choice is trained as its
    trial was: by one worker.

    Waits while the registry is away, and says so. Raises what else it raises.
    """
    found = await patiently(
        job,
        "model_registry",
        lambda channel: model_registry_pb2_grpc.ModelRegistryServiceStub(channel).GetPipeline,
        registry.GetPipelineRequest(pipeline=requested.pipeline, number=requested.pipeline_number),
        REGISTRY_TIMEOUT_S,
    )
    spec = json.loads(found.spec_json)
    return overridden(spec if requested.study is None else for_trials(spec), requested.overrides)


async def _training_set(job: JobContext, requested: TrainingRunRequested) -> TrainingSet:
    """The run's training set, verified. Waits while the feature store is away, and says so. Raises what
    else it raises.
    """
    made = await patiently(
        job,
        "feature_store",
        lambda channel: feature_store_pb2_grpc.FeatureStoreServiceStub(channel).CreateTrainingSet,
        features.CreateTrainingSetRequest(
            pipeline=requested.pipeline,
            id=requested.training_set_id or requested.run_id,
            min_offsets=[features.PartitionOffset(**at.model_dump()) for at in requested.min_offsets],
            pipeline_number=requested.pipeline_number,
        ),
        job.settings.training_set_timeout,
    )
    training_set = TrainingSet.model_validate_json(made.training_set_json)
    verify_fact(training_set, Keys(job.settings.platform.keys).trust())
    return training_set


def _train(
    job: JobContext,
    plan: Plan,
    training_set: TrainingSet,
    work: Path,
    artifacts: Artifacts,
    study: StudyReference | None,
    loop: Loop | None,
) -> dict[str, Any]:
    """Raises Conflict where the model is not that of the study's trial."""
    pipeline = plan.pipeline
    built = build(
        pipeline,
        artifacts.fetch(training_set.train, work / "train.parquet"),
        artifacts.fetch(training_set.validation, work / "validation.parquet"),
        checkpoint=work / "checkpoint.pt",
        on_epoch=lambda epoch: job.progress({"epoch": asdict(epoch)}),
        on_stage=lambda stage: job.progress({"stage": stage}) if stage == "packaging" else None,
        loop=loop if pipeline.model.workers else None,
        scratch=work / "inputs",
    )
    if study is not None and built.weights != study.weights:
        raise Conflict(
            f"the weights are not those of trial {study.trial} of study {study.study_id}",
            where="study",
            remedy=(
                "Its training set has changed, as by an erasure, or a library has: tune again, and that"
                " study's choice is repeated"
            ),
        )
    simpler = _baselines(pipeline, work)
    return _hand_in(
        job,
        pipeline,
        training_set,
        built,
        work,
        artifacts,
        chosen=plan.chosen,
        because=plan.because,
        study=study,
        baselines=simpler,
    )


def _baselines(pipeline: Pipeline, work: Path) -> dict[str, bytes]:
    """Graphs of simpler models on the rows that lie in `work`. A pipeline of before they were has none."""
    if pipeline.defaults < BY_ROWS or not pipeline.training.baselines:
        return {}
    return baselines(pipeline, work / "train.parquet", work / "validation.parquet")


def _import(
    job: JobContext, pipeline: Pipeline, training_set: TrainingSet, settings: Settings, imported: Imported
) -> dict[str, Any]:
    """Packages a graph that was made elsewhere. Raises Invalid for what is wrong with it."""
    from penstock.modelkit.imports.build import build_imported

    artifacts, work = Artifacts(settings.platform.artifact_roots), settings.runs_dir / job.id
    built = build_imported(
        pipeline,
        received(imported.graph, pipeline.pipeline, artifacts),
        artifacts.fetch(training_set.train, work / "train.parquet"),
        artifacts.fetch(training_set.validation, work / "validation.parquet"),
        name=imported.name,
    )
    job.progress({"stage": "packaging"})
    origin = Origin(
        imported_by=imported.by, imported_from=imported.name, original_digest=imported.graph.digest
    )
    simpler = _baselines(pipeline, work)
    return _hand_in(job, pipeline, training_set, built, work, artifacts, origin=origin, baselines=simpler)


def _hand_in(
    job: JobContext,
    pipeline: Pipeline,
    training_set: TrainingSet,
    built: Built,
    work: Path,
    artifacts: Artifacts,
    **said: Any,
) -> dict[str, Any]:
    """Writes the package, stores it, and returns the job's result."""
    directory = work / "package"
    shutil.rmtree(directory, ignore_errors=True)  # of an attempt that was killed here
    digest = package(
        directory,
        pipeline,
        training_set,
        built,
        run_id=job.id,
        pipeline_number=job.payload["pipeline_number"],
        **said,
    )
    tar = work / "package.tar"
    archive.pack(directory, tar)
    return {
        "digest": digest,
        "package": artifacts.put_file(f"packages/{quote(pipeline.pipeline)}/{digits_of(digest)}.tar", tar),
        "metrics": built.metrics,
        "weights": built.weights,
        "parameters": _parameters(pipeline.model_dump(mode="json", include={"model", "trainer", "training"})),
    }


def _parameters(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flat and as text: {"trainer.optimizer.type": "adamw"}."""
    found: dict[str, str] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping):
            found |= _parameters(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = str(value)
    return found


if __name__ == "__main__":
    job_main(run, settings=Settings)
