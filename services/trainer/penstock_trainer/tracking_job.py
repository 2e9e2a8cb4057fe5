"""The tracking job: tells MLflow of a run, or of a study, that has ended.

A job of its own, after the run: MLflow takes seconds to import and its absence or failure must hold
up no model. Both kinds are copies of one process that has loaded it.
"""

from __future__ import annotations

from typing import Any

from penstock.runtime.child import JobContext, job_main
from penstock_trainer import tracking, tracking_studies
from penstock_trainer.runs import STUDY_TRACKING_JOB, TRACKING_JOB
from penstock_trainer.settings import Settings

KINDS = {TRACKING_JOB: tracking.run, STUDY_TRACKING_JOB: tracking_studies.run}


def run(job: JobContext) -> dict[str, Any]:
    return KINDS[job.kind](job)


if __name__ == "__main__":
    job_main(run, settings=Settings)
