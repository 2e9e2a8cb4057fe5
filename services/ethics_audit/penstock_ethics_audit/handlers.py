"""Kafka in: pipelines and registered versions. And what the job says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from penstock.contracts.events import ModelVersionRegistered, PipelineApplied
from penstock.runtime.broker import Router
from penstock.runtime.history import at_once
from penstock.runtime.store import Effect, Store
from penstock_ethics_audit.desk import Desk


def router(desk: Desk, store: Store, known: Callable[[], Awaitable[None]] = at_once) -> Router:
    """Nothing is audited before `known` returns."""
    found = Router(group="penstock.ethics_audit", store=store)

    @found.on_replay(PipelineApplied)
    def on_pipeline_applied(event: PipelineApplied) -> None:
        with store.transaction() as effect:
            desk.remember(event, effect)

    @found.on(ModelVersionRegistered)
    async def on_model_version_registered(event: ModelVersionRegistered, effect: Effect) -> None:
        await known()
        desk.begin(event, effect)

    return found
