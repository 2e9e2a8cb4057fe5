"""Triton behind the gateway: its answers, and its refusals with the HTTP status of each."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

from tritonclient.grpc import service_pb2

from penstock_inference.connection import ASK_S, INFER, Connection
from penstock_inference.short import Short

INFER_S: Final = 30.0  # longest time that the door gives a prediction, in seconds
# Extensions of the protocol that pass the door, of those that Triton names.
EXTENSIONS: Final = frozenset({"binary_tensor_data"})


class Backend(Connection):
    """Connection to Triton, and another for short inferences. Every method raises
    grpc.aio.AioRpcError.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        read = service_pb2.ModelInferResponse.FromString
        self._infer = Short(address, INFER, self._stub.ModelInfer, read, retried=False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._infer.close()
        await super().__aexit__(kind, error, trace)

    async def infer(self, request: service_pb2.ModelInferRequest, within_s: float = INFER_S) -> Any:
        return (await self._infer(request, within_s)).message

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
