"""Kafka in: applied pipelines, registered and promoted versions."""

from __future__ import annotations

from penstock.contracts.events import ModelVersionPromoted, ModelVersionRegistered
from penstock.packages.keys import Keys
from penstock.runtime.broker import Router
from penstock.runtime.pipelines import Applied, AppliedPipelines
from penstock.runtime.store import Effect, Store
from penstock_ethics_audit.desk import Desk

GROUP = "penstock.ethics_audit"


def applied(desk: Desk, store: Store, keys: Keys) -> AppliedPipelines:
    async def follow(new: Applied, _old: Applied | None) -> None:
        await store.write(lambda effect: desk.remember(new, effect))

    async def forget(name: str, number: int) -> None:
        await store.write(lambda effect: desk.forget(name, number, effect))

    return AppliedPipelines(GROUP, keys, follow=follow, forget=forget)


def router(desk: Desk, store: Store) -> Router:
    router = Router(group=GROUP, store=store)

    @router.on(ModelVersionRegistered)
    def on_model_version_registered(event: ModelVersionRegistered, effect: Effect) -> None:
        desk.begin(event, effect)

    @router.on(ModelVersionPromoted)
    def on_model_version_promoted(event: ModelVersionPromoted, effect: Effect) -> None:
        desk.promoted(event, effect)

    return router
