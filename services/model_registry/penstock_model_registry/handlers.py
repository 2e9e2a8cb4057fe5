"""Kafka in: which event leads to which act."""

from __future__ import annotations

from penstock.contracts.events import AuditCompleted, AuditFailed, ReviewDecided, TrainingRunCompleted
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_model_registry.registry import Registry

GROUP = "penstock.model_registry"


def router(registry: Registry, store: Store) -> Router:
    router = Router(group=GROUP, store=store)

    @router.on(TrainingRunCompleted)
    async def on_training_run_completed(event: TrainingRunCompleted, effect: Effect) -> None:
        await registry.register(event, effect)

    @router.on(AuditCompleted)
    async def on_audit_completed(event: AuditCompleted, effect: Effect) -> None:
        await registry.audited(event, effect)

    @router.on(AuditFailed)
    async def on_audit_failed(event: AuditFailed, effect: Effect) -> None:
        await registry.audit_failed(event, effect)

    @router.on(ReviewDecided)
    async def on_review_decided(event: ReviewDecided, effect: Effect) -> None:
        await registry.reviewed(event, effect)

    return router
