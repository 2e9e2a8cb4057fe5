"""Kafka in: promotions, read from the beginning at every start."""

from __future__ import annotations

from penstock.contracts.events import ModelVersionPromoted
from penstock.runtime.broker import Router
from penstock.runtime.restore import Restored
from penstock_inference.serving.deployment import GROUP
from penstock_inference.serving.serving import Serving


class Promotions(Restored):
    """Hands each promotion to `serving`, which tries none before all of the past are there."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.router = Router(GROUP)
        self.router.on_replay(ModelVersionPromoted)(serving.promoted)

    async def restore(self) -> None:
        self._serving.caught_up()
