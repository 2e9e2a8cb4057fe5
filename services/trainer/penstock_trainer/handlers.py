"""Kafka in: wishes for runs."""

from __future__ import annotations

from penstock.contracts.events import TrainingRunRequested
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_trainer.runs import Runs


def router(runs: Runs, store: Store) -> Router:
    found = Router(group="penstock.trainer", store=store)

    @found.on(TrainingRunRequested)
    def on_training_run_requested(event: TrainingRunRequested, effect: Effect) -> None:
        runs.accept(event, effect)

    return found
