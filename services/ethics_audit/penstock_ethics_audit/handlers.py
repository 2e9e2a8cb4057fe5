"""Kafka in: pipelines and registered versions. And what the job says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from penstock.contracts.events import ModelVersionRegistered, PipelineApplied
from penstock.runtime.broker import Router
from penstock.runtime.history import at_once
from penstock.runtime.store import Store, Write
from penstock_ethics_audit.desk import Desk


def router(desk: Desk, store: Store, known: Callable[[], Awaitable[None]] = at_once) -> Router:
    """Nothing is audited before `known` returns."""
    found = Router(group="penstock.ethics_audit", store=store)

    @found.on_replay(PipelineApplied)
    async def on_pipeline_applied(event: PipelineApplied) -> None:
        await store.write(lambda effect: desk.remember(event, effect))

    @found.on(ModelVersionRegistered)
    async def on_model_version_registered(event: ModelVersionRegistered) -> Write:
        await known()
        return lambda effect: desk.begin(event, effect)

    return found
