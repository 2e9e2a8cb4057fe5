"""Kafka in: finished runs, audits and reviews, and what the registry announced itself."""

from __future__ import annotations

from penstock.contracts.events import (
    AuditCompleted,
    AuditFailed,
    ModelVersionPromoted,
    PipelineApplied,
    PipelineDeleted,
    ReviewDecided,
    TrainingRunCompleted,
)
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store, Write
from penstock_model_registry.registry import Registry


def router(registry: Registry, store: Store) -> Router:
    router = Router(group="penstock.model_registry", store=store)

    @router.on(TrainingRunCompleted)
    async def on_training_run_completed(event: TrainingRunCompleted) -> Write | None:
        return await registry.register(event)

    @router.on(AuditCompleted)
    async def on_audit_completed(event: AuditCompleted) -> Write | None:
        return await registry.audited(event)

    @router.on(AuditFailed)
    def on_audit_failed(event: AuditFailed, effect: Effect) -> None:
        registry.audit_failed(event, effect)

    @router.on(ReviewDecided)
    async def on_review_decided(event: ReviewDecided) -> Write | None:
        return await registry.reviewed(event)

    @router.on(PipelineApplied, PipelineDeleted, ModelVersionPromoted)
    def on_announced(event: PipelineApplied | PipelineDeleted | ModelVersionPromoted, effect: Effect) -> None:
        registry.announced(event, effect)

    return router
