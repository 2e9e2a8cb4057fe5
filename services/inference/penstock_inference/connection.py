"""Connection to Triton, for inference and the gateway."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import grpc
from tritonclient.grpc import service_pb2_grpc

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
ASK_S: Final = 5.0  # deadline of a question, in seconds
_MAX_BYTES: Final = 64 << 20
_OPTIONS: Final = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", _MAX_BYTES),
    ("grpc.max_send_message_length", _MAX_BYTES),
    ("grpc.enable_http_proxy", 0),  # `http_proxy` is for what lies outside the platform
]


class Connection:
    """Channel to one Triton, closed at the end of the block."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()
