"""Kafka in: promotions, read from the beginning by every start."""

from __future__ import annotations

from penstock.contracts.events import ModelVersionPromoted
from penstock.runtime.broker import Router
from penstock.runtime.store import Store
from penstock_inference.serving import Serving

GROUP = "penstock.inference"


def router(serving: Serving, store: Store) -> Router:
    router = Router(group=GROUP, store=store)

    @router.on_replay(ModelVersionPromoted)
    def on_model_version_promoted(event: ModelVersionPromoted) -> None:
        serving.promoted(event)

    return router
