"""Kafka in: promotions and pipelines, read from the beginning at every start."""

from __future__ import annotations

from penstock.contracts.events import ModelVersionPromoted, PipelineApplied
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.broker import Router
from penstock.runtime.store import Store
from penstock_inference.serving.deployment import Deployments
from penstock_inference.serving.serving import Serving

GROUP = "penstock.inference"


def router(serving: Serving, deployments: Deployments, store: Store) -> Router:
    router = Router(group=GROUP, store=store)

    @router.on_replay(ModelVersionPromoted)
    def on_model_version_promoted(event: ModelVersionPromoted) -> None:
        serving.promoted(event)

    @router.on_replay(PipelineApplied)
    def on_pipeline_applied(event: PipelineApplied) -> None:
        pipeline = Pipeline.model_validate(event.spec)
        deployments.of(pipeline.pipeline).applied = pipeline

    return router
