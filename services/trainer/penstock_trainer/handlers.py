"""Kafka in: wishes for runs, ends of studies. And what became of the jobs that tell MLflow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog

from penstock.contracts.errors import Kind
from penstock.contracts.events import (
    TrainingRunRequested,
    TuningStudyCanceled,
    TuningStudyCompleted,
    TuningStudyFailed,
)
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_trainer.runs import STUDY_TRACKING_JOB, Runs

log = structlog.get_logger(__name__)


def router(runs: Runs, store: Store) -> Router:
    router = Router(group="penstock.trainer", store=store)

    @router.on(TrainingRunRequested)
    def on_training_run_requested(event: TrainingRunRequested, effect: Effect) -> None:
        runs.accept(event, effect)

    # A study that was extended ends again, and a job is enqueued once.
    @router.on(TuningStudyCompleted)
    def on_tuning_study_completed(event: TuningStudyCompleted, effect: Effect) -> None:
        _track_study(event.study_id, event.completed_at, effect)

    @router.on(TuningStudyFailed)
    def on_tuning_study_failed(event: TuningStudyFailed, effect: Effect) -> None:
        _track_study(event.study_id, event.failed_at, effect)

    @router.on(TuningStudyCanceled)
    def on_tuning_study_canceled(event: TuningStudyCanceled, effect: Effect) -> None:
        _track_study(event.study_id, event.canceled_at, effect)

    return router


def _track_study(study_id: str, ended_at: datetime, effect: Effect) -> None:
    effect.enqueue(STUDY_TRACKING_JOB, f"{study_id}.{ended_at.timestamp():.0f}", {"study_id": study_id})


def tracked(_run_id: str, _result: dict[str, Any], _effect: Effect) -> None:
    """Nothing follows: MLflow has it."""


def not_tracked(run_id: str, kind: Kind, message: str, _remedy: str, _effect: Effect) -> None:
    """Logs it; the model is not held up."""
    log.warning("run_not_tracked", run=run_id, kind=kind.value, why=message)
