"""Calls that only the replica with the lake can answer, handed on to it by those that stand by."""

from __future__ import annotations

from typing import Any

import grpc

from penstock.contracts.errors import Unavailable
from penstock.feature_store.v1.feature_store_pb2_grpc import FeatureStoreServiceStub
from penstock.runtime import rpc
from penstock_feature_store.lake.ownership import Ownership

# A replica's name in the call's metadata: handed on once, never in a circle.
FORWARDED = "penstock-forwarded-by"


class Forwarding:
    """Hands calls on to the owner, over one channel that connects at the first call. Used from the
    event loop.
    """

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def call(self, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The owner's answer, within the caller's deadline. Raises what it raises, and Unavailable
        while there is no owner.
        """
        owner = self._ownership.other()
        if owner is None or any(key == FORWARDED for key, _ in context.invocation_metadata() or ()):
            raise Unavailable(
                "no replica owns the lake at the moment, one is taking it over", remedy="Try again"
            )
        if owner.address not in self._channels:
            self._channels[owner.address] = rpc.connect(owner.address)
        stub = FeatureStoreServiceStub(self._channels[owner.address])
        metadata = ((FORWARDED, self._ownership.this.replica),)
        return await getattr(stub, method)(request, timeout=context.time_remaining(), metadata=metadata)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
