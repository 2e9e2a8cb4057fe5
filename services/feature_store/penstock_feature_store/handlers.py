"""Kafka in, control plane: pipelines as they were last applied, and which runs are under way."""

from __future__ import annotations

from penstock.contracts.events import (
    PipelineApplied,
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunRequested,
)
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.store import begin_run, end_run

GROUP = "penstock.feature_store"


def router(pipelines: Pipelines, arrivals: Arrivals, store: Store) -> Router:
    """`arrivals`: told when a run has ended, for the labels that came during it."""
    router = Router(group=GROUP, store=store)

    @router.on_replay(PipelineApplied)
    async def on_pipeline_applied(event: PipelineApplied) -> None:
        await pipelines.apply(Pipeline.model_validate(event.spec), event.number)

    @router.on(TrainingRunRequested)
    def on_training_run_requested(event: TrainingRunRequested, effect: Effect) -> None:
        event.check()
        begin_run(effect.session, event.run_id, event.pipeline)

    @router.on(TrainingRunCompleted, TrainingRunFailed, TrainingRunCanceled)
    def on_training_run_ended(
        event: TrainingRunCompleted | TrainingRunFailed | TrainingRunCanceled, effect: Effect
    ) -> None:
        end_run(effect.session, event.run_id)
        effect.after_commit(arrivals.tell)

    return router
