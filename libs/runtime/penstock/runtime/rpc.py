"""gRPC: servers that turn PenstockError into its status, channels that carry traces, deadlines and a retry policy."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor

from penstock.contracts.errors import KINDS_BY_STATUS, TREATMENTS, Kind, PenstockError, Unavailable, error_of

log = structlog.get_logger(__name__)

DOMAIN = "penstock.io"
DEFAULT_DEADLINE_S = 60.0
"""For unary calls whose client sets none."""
MAX_MESSAGE_BYTES = 64 << 20

_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_OPTIONS = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]


def server() -> grpc.aio.Server:
    """A server with traces, the error table and a default deadline. Health and reflection come from the lifecycle."""
    traces = cast("grpc.aio.ServerInterceptor", aio_server_interceptor())  # type: ignore[no-untyped-call]
    return grpc.aio.server(interceptors=[traces, ErrorTable()], options=[*_OPTIONS, ("grpc.so_reuseport", 0)])


def connect(address: str) -> grpc.aio.Channel:
    """A channel that retries UNAVAILABLE within the call's deadline. Connects at the first call, never here."""
    options = [
        *_OPTIONS,
        ("grpc.service_config", json.dumps(_RETRIES)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    traces = aio_client_interceptors()  # type: ignore[no-untyped-call]
    return grpc.aio.insecure_channel(address, interceptors=traces, options=options)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """An aware time as a message carries it; None leaves the field unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def rpc_error(error: grpc.RpcError) -> PenstockError:
    """The PenstockError behind a failed call, its place and remedy included when the peer is a Penstock service."""
    code: grpc.StatusCode = error.code()
    status = rpc_status.from_call(error) if hasattr(error, "trailing_metadata") else None
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            said = dict(info.metadata)
            return error_of(Kind(info.reason), said.get("message", ""), where=said.get("where"), remedy=said.get("remedy"))
    return error_of(KINDS_BY_STATUS.get(code.name, Kind.INTERNAL), error.details() or code.name)


if TYPE_CHECKING:  # generic in the stubs only
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class ErrorTable(grpc.aio.ServerInterceptor):
    """A servicer raises; this answers. Anything that is no PenstockError is a bug: logged whole, told without detail."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method: str = handler_call_details.method
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(cast("Callable[..., AsyncIterator[Any]]", handler.unary_stream), method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(cast("Callable[..., Awaitable[Any]]", handler.unary_unary), method),
            handler.request_deserializer,
            handler.response_serializer,
        )


class Methods(grpc.GenericRpcHandler):
    """What a server answers, of servicers that may come after its start; until all are there, another method is UNAVAILABLE.

    It is given to `add_XServicer_to_server` in the server's place: a server itself takes no servicer once it has started.
    """

    def __init__(self, waits_for: Callable[[], str]) -> None:
        """`waits_for` says what for, to callers who are too early."""
        self.complete = False
        self._waits_for = waits_for
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """The same once more, for servers that look methods up faster."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        for known in self._handlers:
            if (found := known.service(handler_call_details)) is not None:
                return found
        if self.complete:
            return None
        return grpc.stream_stream_rpc_method_handler(self._not_yet)

    async def _not_yet(self, _requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await _answer(Unavailable(f"the service is not ready, it waits for {self._waits_for()}", remedy="Try again"), "", context)
        yield b""


def _unary(behaviour: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(behaviour)
    async def call(request: Any, context: Context) -> Any:
        try:
            async with asyncio.timeout(DEFAULT_DEADLINE_S if context.time_remaining() is None else None):
                return await behaviour(request, context)
        except Exception as error:
            return await _answer(error, method, context)

    return call


def _streaming(behaviour: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(behaviour)
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in behaviour(request, context):
                yield response
        except Exception as error:
            await _answer(error, method, context)

    return call


async def _answer(error: Exception, method: str, context: Context) -> None:
    match error:
        case grpc.aio.AbortError():
            raise error
        case PenstockError():
            told = error
        case TimeoutError():
            told = error_of(Kind.DEADLINE, f"no answer within {DEFAULT_DEADLINE_S:.0f} s", remedy="Set a longer deadline")
        case grpc.RpcError():
            told = rpc_error(error)
        case _:
            log.error("request_failed", method=method, exc_info=error)
            told = PenstockError("an internal error; the service's log has it", remedy="Look for request_failed in `penstock logs`")
    await context.abort_with_status(rpc_status.to_status(_status(told)))


def _status(error: PenstockError) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=error.kind.value, domain=DOMAIN)
    info.metadata["message"] = error.message
    if error.where:
        info.metadata["where"] = error.where
    if error.remedy:
        info.metadata["remedy"] = error.remedy
    detail = any_pb2.Any()
    detail.Pack(info)
    code: int = getattr(grpc.StatusCode, TREATMENTS[error.kind].grpc_status).value[0]
    return status_pb2.Status(code=code, message=str(error), details=[detail])
