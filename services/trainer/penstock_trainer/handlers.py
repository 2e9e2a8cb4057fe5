"""Kafka in: wishes for runs. And what became of the jobs that tell MLflow."""

from __future__ import annotations

from typing import Any

import structlog

from penstock.contracts.errors import Kind
from penstock.contracts.events import TrainingRunRequested
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_trainer.runs import Runs

log = structlog.get_logger(__name__)


def router(runs: Runs, store: Store) -> Router:
    router = Router(group="penstock.trainer", store=store)

    @router.on(TrainingRunRequested)
    def on_training_run_requested(event: TrainingRunRequested, effect: Effect) -> None:
        runs.accept(event, effect)

    return router


def tracked(_run_id: str, _result: dict[str, Any], _effect: Effect) -> None:
    """Nothing follows: MLflow has it."""


def not_tracked(run_id: str, kind: Kind, message: str, _remedy: str, _effect: Effect) -> None:
    """Logs it; the model is not held up."""
    log.warning("run_not_tracked", run=run_id, kind=kind.value, why=message)
