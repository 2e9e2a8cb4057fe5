"""The study's job: a process of its own that asks the search, starts trials and tells what came of
them. `python -m penstock_tuner.job` is started by the runtime.

A study whose process was killed goes on from its rows: trials that have ended are known, those that
ran are repeated with the same values.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any

from penstock.contracts.events import TrainingSet, TuningStudyRequested
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.child import JobContext, job_main
from penstock_tuner import peers, search
from penstock_tuner.driver import Driver
from penstock_tuner.pool.choice import open_pool
from penstock_tuner.pool.port import TrialPool
from penstock_tuner.pool.room import trials_at_once
from penstock_tuner.settings import Settings
from penstock_tuner.trials.workbench import Workbench


def run(job: JobContext) -> dict[str, Any]:
    began = time.monotonic()
    settings: Settings = job.settings
    requested = TuningStudyRequested.model_validate(job.payload)
    job.progress({"attempt": job.attempt})
    before = asyncio.run(peers.before(job, requested.study_id))
    asked = requested.pipeline, requested.pipeline_number, requested.tuner
    spec = asyncio.run(peers.spec_of(job, *asked))
    pipeline = Pipeline.model_validate(spec)
    earlier = requested.continues
    known = asyncio.run(peers.known(job, earlier, pipeline)) if earlier else ()
    work = Workbench(folder=settings.studies_dir / requested.study_id / "work")
    with closing(_pool(settings, pipeline, work)) as pool:  # it loads while rows are put together
        training_set = asyncio.run(peers.training_set_of(job, requested))
        job.progress({"training_set": training_set, "tuner": spec.get("tuner") or {}})
        _fill(settings, training_set, pipeline, work)
        began -= before.spent_s
        rows = training_set.rows["train"]
        return Driver(
            spec,
            rows,
            [*known, *before.tried],
            pool,
            job.progress,
            began=began,
            looks=len(work.folds) or 1,
            last_failure=before.last_failure,
        ).run()


def _pool(settings: Settings, pipeline: Pipeline, work: Workbench) -> TrialPool:
    tuner = pipeline.tuner
    return open_pool(
        work,
        settings.data_dir,
        settings.cluster,
        at_once=tuner.at_once or trials_at_once(tuner.budget.memory, settings.at_once),
        memory=tuner.budget.memory,
        families=tuple(search.space_of(pipeline).families.types),
    )


def _fill(settings: Settings, training_set: TrainingSet, pipeline: Pipeline, work: Workbench) -> None:
    """Fetches the train and the validation part, and no other."""
    artifacts, folder = Artifacts(settings.platform.artifact_roots), work.folder.parent
    train = artifacts.fetch(training_set.train, folder / "train.parquet")
    validation = artifacts.fetch(training_set.validation, folder / "validation.parquet")
    work.fill(train, validation, pipeline, pipeline.tuner.evaluate.folds)


if __name__ == "__main__":
    job_main(run, settings=Settings)
