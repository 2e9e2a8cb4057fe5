"""Protocol over gRPC, for the calls that the door's script does not let through unread: compressed
ones, and whatever is not of the plainest form (`door/recording.lua`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from operator import methodcaller
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.checks import check
from penstock.serving.protocol.http import LARGE_BYTES, MANY
from penstock.serving.protocol.tensors import MAX_DECODED_BYTES, Grown, Undecodable, inflate
from penstock_inference.door.door import READ_HEADER
from penstock_inference.gateway.backend import INFER_S, Backend

SERVICE: Final = "inference.GRPCInferenceService"
Context = grpc.aio.ServicerContext[Any, Any]
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", MAX_DECODED_BYTES),
    ("grpc.max_send_message_length", MAX_DECODED_BYTES),
    ("grpc.per_message_decompression", 0),  # it would take place for many at a time, without a bound
    ("grpc.so_reuseport", 0),
]


class GrpcGateway:
    """ModelInfer and ServerMetadata; other methods go straight to Triton."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._large = asyncio.Lock()

    async def infer(self, message: bytes, context: Context) -> Any:
        refused: tuple[grpc.StatusCode, str]
        try:
            return await self._infer(message, context)
        except DecodeError:
            refused = grpc.StatusCode.INVALID_ARGUMENT, "the message is no ModelInferRequest"
        except Undecodable as error:
            refused = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except grpc.aio.AioRpcError as error:
            refused = error.code(), error.details() or ""
        # Out here the error is gone, and with it what its frames hold.
        return await context.abort(*refused)

    async def _infer(self, message: bytes, context: Context) -> Any:
        encoding = dict(context.invocation_metadata() or ()).get(READ_HEADER)
        if len(message) <= LARGE_BYTES:
            with suppress(Grown):
                return await self._ask(_read(message, encoding, LARGE_BYTES), context)
        # As over HTTP, a long one waits for its turn, and is read beside the event loop.
        async with self._large:
            request = await asyncio.to_thread(_read, message, encoding, MAX_DECODED_BYTES)
            return await self._ask(request, context)

    async def _ask(self, request: service_pb2.ModelInferRequest, context: Context) -> Any:
        return await self._backend.infer(request, min(context.time_remaining() or INFER_S, INFER_S))

    async def describe(self, message: bytes, context: Context) -> Any:
        try:
            return await self._backend.server()
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")


def _read(message: bytes, encoding: Any, most: int) -> service_pb2.ModelInferRequest:
    """Raises DecodeError, Undecodable, Grown where it has more than `most` bytes."""
    request = service_pb2.ModelInferRequest.FromString(inflate(message, encoding, whole=True, most=most))
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
