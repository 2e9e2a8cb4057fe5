"""The study's job: a process of its own that asks the search, starts trials and tells what came of
them. `python -m penstock_tuner.job` is started by the runtime.

A study whose process was killed goes on from its rows: trials that have ended are known, those that
ran are repeated with the same values.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from penstock.contracts.events import TrainingSet, TuningStudyRequested
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.child import JobContext, job_main
from penstock_tuner import peers
from penstock_tuner.settings import Settings

if TYPE_CHECKING:
    from penstock_tuner.trials.workbench import Workbench


def run(job: JobContext) -> dict[str, Any]:
    began = time.monotonic()
    settings: Settings = job.settings
    requested = TuningStudyRequested.model_validate(job.payload)
    job.progress({"attempt": job.attempt})
    before = asyncio.run(peers.before(job, settings, requested.study_id))
    spec = asyncio.run(peers.spec_of(job, settings, requested))
    training_set = asyncio.run(peers.training_set_of(job, settings, requested))
    job.progress({"training_set": training_set, "tuner": spec.get("tuner") or {}})

    from penstock_tuner.driver import Driver
    from penstock_tuner.pool.choice import open_pool

    pipeline = Pipeline.model_validate(spec)
    tuner = pipeline.tuner
    work = _workbench(settings, requested.study_id, training_set, pipeline)
    at_once = tuner.at_once or len(os.sched_getaffinity(0))
    bounds: dict[str, Any] = {"at_once": at_once, "memory": tuner.budget.memory}
    with closing(open_pool(work, settings.platform.home, settings.ray, **bounds)) as pool:
        began -= before.spent_s
        rows = training_set.rows["train"]
        return Driver(
            spec, rows, before.tried, pool, job.progress, began=began, looks=len(work.folds) or 1
        ).run()


def _workbench(settings: Settings, study_id: str, training_set: TrainingSet, pipeline: Pipeline) -> Workbench:
    """Fetches the train and the validation part, and no other, into the study's folder."""
    from penstock_tuner.trials.workbench import Workbench

    folder = settings.studies_dir / study_id
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed here
    artifacts = Artifacts(settings.platform.artifacts_uri)
    train = artifacts.fetch(training_set.train, folder / "train.parquet")
    validation = artifacts.fetch(training_set.validation, folder / "validation.parquet")
    return Workbench.make(train, validation, folder / "work", pipeline, pipeline.tuner.evaluate.folds)


if __name__ == "__main__":
    job_main(run, settings=Settings)
