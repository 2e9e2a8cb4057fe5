"""Protocol over gRPC, for the calls that the door's script does not let through unread: compressed
ones, and whatever is not of the plainest form (`door/recording.lua`).
"""

from __future__ import annotations

from operator import methodcaller
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from penstock.serving.protocol.checks import check
from penstock.serving.protocol.tensors import MAX_DECODED_BYTES, Undecodable
from penstock_inference.gateway.backend import INFER_S, Backend
from penstock_inference.gateway.http import MANY

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

    async def infer(self, message: bytes, context: Context) -> Any:
        try:
            request = service_pb2.ModelInferRequest.FromString(message)
            check(request)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no ModelInferRequest")
        except Undecodable as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        request.DiscardUnknownFields()
        within_s = min(context.time_remaining() or INFER_S, INFER_S)
        try:
            return await self._backend.infer(request, within_s)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")

    async def describe(self, message: bytes, context: Context) -> Any:
        try:
            return await self._backend.server()
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")


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
