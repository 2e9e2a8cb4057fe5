"""Kafka in, control plane: which runs are under way."""

from __future__ import annotations

from penstock.contracts.events import (
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunRequested,
)
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.pipelines import GROUP
from penstock_feature_store.store import begin_run, end_run


def router(arrivals: Arrivals, store: Store, keys: Keys) -> Router:
    """`arrivals`: told when a run has ended, for the labels that came during it."""
    router = Router(group=GROUP, store=store)

    @router.on(TrainingRunRequested)
    def on_training_run_requested(event: TrainingRunRequested, effect: Effect) -> None:
        event.check()
        begin_run(effect.session, event.run_id, event.pipeline, event.training_set_id)

    @router.on(TrainingRunCompleted, TrainingRunFailed, TrainingRunCanceled)
    def on_training_run_ended(
        event: TrainingRunCompleted | TrainingRunFailed | TrainingRunCanceled, effect: Effect
    ) -> None:
        verify_fact(event, keys.trust())
        end_run(effect.session, event.run_id)
        effect.after_commit(arrivals.tell)

    return router
