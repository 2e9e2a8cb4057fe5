"""Protocol over gRPC, for the calls that the door's script does not let through unread: compressed
ones, and whatever is not of the plainest form (`door/recording.lua`).
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from operator import methodcaller
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.checks import check
from penstock.serving.protocol.http import LARGE_BYTES, MANY
from penstock.serving.protocol.tensors import MAX_DECODED_BYTES, Undecodable
from penstock_inference.gateway.backend import INFER_S, Backend

SERVICE: Final = "inference.GRPCInferenceService"
Context = grpc.aio.ServicerContext[Any, Any]
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", MAX_DECODED_BYTES),
    ("grpc.max_send_message_length", MAX_DECODED_BYTES),
    ("grpc.so_reuseport", 0),
]


class GrpcGateway:
    """ModelInfer and ServerMetadata; other methods go straight to Triton."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._large = asyncio.Lock()

    async def infer(self, message: bytes, context: Context) -> Any:
        # As over HTTP, a long one waits for its turn, and is read beside the event loop.
        long = len(message) > LARGE_BYTES
        async with self._large if long else nullcontext():
            try:
                request = await asyncio.to_thread(_read, message) if long else _read(message)
                within_s = min(context.time_remaining() or INFER_S, INFER_S)
                return await self._backend.infer(request, within_s)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no ModelInferRequest")
            except Undecodable as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

    async def describe(self, message: bytes, context: Context) -> Any:
        try:
            return await self._backend.server()
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")


def _read(message: bytes) -> service_pb2.ModelInferRequest:
    """Raises DecodeError, Undecodable."""
    request = service_pb2.ModelInferRequest.FromString(message)
    check(request)
    request.DiscardUnknownFields()
    return request


def server(backend: Backend, address: str) -> grpc.aio.Server:
    """Server at `address`; not started."""
    gateway = GrpcGateway(backend)
    # Of the requests' bytes: one that is no message is told so.
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(method, None, methodcaller("SerializeToString"))
        for name, method in (("ModelInfer", gateway.infer), ("ServerMetadata", gateway.describe))
    }
    made = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MANY)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    made.add_insecure_port(address)
    return made
