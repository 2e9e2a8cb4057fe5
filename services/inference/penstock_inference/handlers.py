"""Kafka in: promotions, read from the beginning at every start."""

from __future__ import annotations

from penstock.contracts.errors import Tampered
from penstock.contracts.events import ModelVersionPromoted
from penstock.packages.evidence import admissible
from penstock.packages.keys import Keys
from penstock.runtime.broker import Router
from penstock.runtime.restore import Restored
from penstock_inference.serving.deployment import GROUP
from penstock_inference.serving.serving import Serving


class Promotions(Restored):
    """Hands each promotion to `serving`, which tries none before all of the past are there."""

    def __init__(self, serving: Serving, keys: Keys) -> None:
        """`keys`: the trust store."""
        self._serving = serving
        self._keys = keys
        self.router = Router(GROUP)
        self.router.on_replay(ModelVersionPromoted)(self._promoted)

    def _promoted(self, event: ModelVersionPromoted) -> None:
        """Raises Tampered for what opens no gate: `serving` tells that it is refused, unless it looks
        like what is served.
        """
        self._serving.promoted(event)
        if wrong := admissible(event, self._keys.trust(), event.version.digest):
            raise Tampered("; ".join(wrong), where=event.version.pipeline)

    async def restore(self) -> None:
        self._serving.caught_up()
