"""Triton behind the gateway: its answers, and its refusals with the HTTP status of each."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final

from tritonclient.grpc import service_pb2

from penstock_inference.connection import ASK_S, Connection
from penstock_inference.gateway.unary import SHORT_BYTES, NotBegun, Unary, connected

INFER_S: Final = 30.0  # longest time that the door gives a prediction, in seconds
# Extensions of the protocol that pass the door, of those that Triton names.
EXTENSIONS: Final = frozenset({"binary_tensor_data"})


_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"


class Backend(Connection):
    """Connection to Triton, and another for short inferences. Every method raises
    grpc.aio.AioRpcError.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._address = address
        self._short: Unary | None = None
        self._connecting: asyncio.Task[Unary] | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connecting:
            self._connecting.cancel()
        if self._short:
            self._short.close()
        await super().__aexit__(kind, error, trace)

    async def infer(self, request: service_pb2.ModelInferRequest, within_s: float = INFER_S) -> Any:
        size = request.ByteSize()
        if size <= SHORT_BYTES and (short := await self._for_short()).takes(size):
            try:
                answer = await short.call(request.SerializeToString(), within_s)
                return service_pb2.ModelInferResponse.FromString(answer)
            except NotBegun:
                pass
        return await self._stub.ModelInfer(request, timeout=within_s)

    async def _for_short(self) -> Unary:
        if self._short is None or self._short.closed:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(connected(self._address, _INFER))
            self._short = await asyncio.shield(self._connecting)
        return self._short

    async def live(self) -> bool:
        return bool((await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=ASK_S)).live)

    async def ready(self) -> bool:
        return bool((await self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=ASK_S)).ready)

    async def model_ready(self, name: str, version: str) -> bool:
        asked = service_pb2.ModelReadyRequest(name=name, version=version)
        return bool((await self._stub.ModelReady(asked, timeout=ASK_S)).ready)

    async def server(self) -> service_pb2.ServerMetadataResponse:
        """Triton's description, with those of its extensions that pass the door."""
        found = await self._stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=ASK_S)
        return service_pb2.ServerMetadataResponse(
            name=found.name,
            version=found.version,
            extensions=[name for name in found.extensions if name in EXTENSIONS],
        )

    async def model(self, name: str, version: str) -> Any:
        asked = service_pb2.ModelMetadataRequest(name=name, version=version)
        return await self._stub.ModelMetadata(asked, timeout=ASK_S)
