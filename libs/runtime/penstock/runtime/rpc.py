"""gRPC: servers that turn PenstockError into its status, channels that carry traces, deadlines and
a retry policy.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
from pydantic import ValidationError

from penstock.contracts import events, metrics
from penstock.contracts.error_details import error_of_call, metadata_of
from penstock.contracts.errors import TREATMENTS, Invalid, Kind, PenstockError, Unavailable, error_of
from penstock.runtime.metrics import histogram

K = TypeVar("K")
M = TypeVar("M")

log = structlog.get_logger(__name__)
_CALLS = histogram(metrics.CALLS)

DEFAULT_DEADLINE_S = 60.0  # for unary calls whose client sets none
MAX_MESSAGE_BYTES = 64 << 20
_UNTRACED = ("/grpc.health.", "/grpc.reflection.", "/penstock.status.", "/penstock.door.")
# Calls that come by the thousand: a span for those of a caller that traces, and for one of so many
# others. A span takes as long as a small model, or as keeping an event, or reading one.
_MANY: Final = (
    "/inference.",
    "/penstock.inference.v1.InferenceService/Predict",
    "/penstock.edge_gateway.v1.SiteService/Publish",
    "/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures",
)
_ONE_OF: Final = 100  # calls, on average
# Statuses that make a server's span an error, by OpenTelemetry's semantic conventions for gRPC.
_OUR_FAULT = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
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
    ],
}
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),  # `http_proxy` is for what lies outside the platform
]


def server() -> grpc.aio.Server:
    """A server with traces, the error table and a default deadline. Health and reflection come from
    the lifecycle.
    """
    return grpc.aio.server(interceptors=[ErrorTable()], options=[*_OPTIONS, ("grpc.so_reuseport", 0)])


def connect(address: str) -> grpc.aio.Channel:
    """A channel that retries UNAVAILABLE within the call's deadline. Connects at the first call, never here.

    A name may stand for several replicas: calls go to those that answer, in turn, and a retried one
    to the next.
    """
    options = [
        *_OPTIONS,
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        (
            "grpc.dns_min_time_between_resolutions_ms",
            1000,
        ),  # 30 s by default; a container that starts again may have another address
    ]
    traces = aio_client_interceptors(filter_=_asked_in_a_span)  # type: ignore[no-untyped-call]
    return grpc.aio.insecure_channel(address, interceptors=traces, options=options)


def _traced(call: grpc.HandlerCallDetails | grpc.aio.ClientCallDetails) -> bool:
    """Traces all but what is asked every few seconds for as long as the platform runs."""
    return not _method(call).startswith(_UNTRACED)


def _asked_in_a_span(call: grpc.aio.ClientCallDetails) -> bool:
    return trace.get_current_span().is_recording() if _method(call).startswith(_MANY) else _traced(call)


def _method(call: grpc.HandlerCallDetails | grpc.aio.ClientCallDetails) -> str:
    method: str | bytes = call.method
    return method.decode() if isinstance(method, bytes) else method


def _answered_in_a_span(call: grpc.HandlerCallDetails) -> bool:
    if not str(call.method).startswith(_MANY):
        return _traced(call)
    for name, value in call.invocation_metadata or ():
        if name == "traceparent":
            return str(value).endswith("-01")
    return random.random() * _ONE_OF < 1  # noqa: S311


def timestamp(moment: datetime | None) -> Timestamp | None:
    """An aware time as a message carries it; None leaves the field unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def shown(found: Iterable[K], show: Callable[[K], M]) -> list[M]:
    """Answers by what was found, keys of rows say. One that cannot be read or shown is logged, and
    hides no other.
    """
    told = []
    for one in found:
        try:
            told.append(show(one))
        except Unavailable:
            raise
        except Exception:
            log.exception("not_shown", found=str(one))
    return told


if TYPE_CHECKING:  # generic in the stubs only
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class ErrorTable(grpc.aio.ServerInterceptor):
    """A servicer raises; this answers, in a span where the call has one. Anything that is no PenstockError
    is a bug: logged whole, told without detail.
    """

    def __init__(self) -> None:
        self._traces = cast("grpc.aio.ServerInterceptor", aio_server_interceptor())  # type: ignore[no-untyped-call]
        # By method, the servicer's handler and the one that answers in its place.
        self._answering: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        if not _answered_in_a_span(handler_call_details):
            return self._in_place_of(await continuation(handler_call_details), handler_call_details.method)

        async def answering(details: grpc.HandlerCallDetails) -> Handler | None:
            return self._in_place_of(await continuation(details), details.method)

        return await self._traces.intercept_service(answering, handler_call_details)

    def _in_place_of(self, handler: Handler | None, method: str) -> Handler | None:
        if handler is None or (handler.request_streaming and handler.response_streaming):
            return handler
        known = self._answering.get(method)
        if known is None or known[0] is not handler:
            known = self._answering[method] = handler, _answering(handler, method)
        return known[1]


def _answering(handler: Handler, method: str) -> Handler:
    coding = handler.request_deserializer, handler.response_serializer
    if handler.response_streaming:
        streams = cast("Callable[..., AsyncIterator[Any]]", handler.unary_stream)
        return grpc.unary_stream_rpc_method_handler(_streaming(streams, method), *coding)
    if handler.request_streaming:
        takes = cast("Callable[..., Awaitable[Any]]", handler.stream_unary)
        return grpc.stream_unary_rpc_method_handler(_unary(takes, method), *coding)
    answers = cast("Callable[..., Awaitable[Any]]", handler.unary_unary)
    return grpc.unary_unary_rpc_method_handler(_unary(answers, method), *coding)


class Methods(grpc.GenericRpcHandler):
    """Servicers that may be added after their server has started, and called later still.

    It is given to `add_XServicer_to_server` in the server's place: a server itself takes no
    servicer once it has started.
    """

    def __init__(self, waits_for: Callable[[], str] | None = None) -> None:
        """Closed, with `waits_for`, until `open` is set: every method is UNAVAILABLE, and that
        function says what is waited for.
        """
        self.open = waits_for is None
        self._waits_for = waits_for or (lambda: "")
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._found: dict[str, Handler] = {}  # by method

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Does nothing: generated code hands over the same methods here, for servers that look them up by
        name; `service` asks the generic handlers.
        """

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        if not self.open:
            return grpc.stream_stream_rpc_method_handler(self._not_yet(handler_call_details.method))
        method = handler_call_details.method
        if (known := self._found.get(method)) is not None:
            return known
        for handler in self._handlers:
            if (found := handler.service(handler_call_details)) is not None:
                self._found[method] = found
                return found
        return None

    def _not_yet(self, method: str) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
        async def answer(_requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            async with _Answered(method, context):
                raise Unavailable(
                    f"the service is not ready, it waits for {self._waits_for()}", remedy="Try again"
                )
            yield b""  # makes it a stream

        return answer


def _unary(behaviour: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(behaviour)
    async def call(request: Any, context: Context) -> Any:
        async with _Answered(method, context):
            if context.time_remaining() is not None:
                return await behaviour(request, context)
            async with asyncio.timeout(DEFAULT_DEADLINE_S):
                return await behaviour(request, context)

    return call


def _streaming(
    behaviour: Callable[..., AsyncIterator[Any]], method: str
) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(behaviour)
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with _Answered(method, context):
            async for response in behaviour(request, context):
                yield response

    return call


class _Answered:
    """A call, measured from its handler's start to its end, whatever end that is; what it raises
    is answered by the error table.
    """

    __slots__ = ("_began", "_context", "_method")

    def __init__(self, method: str, context: Context) -> None:
        self._method, self._context = method, context

    async def __aenter__(self) -> None:
        self._began = time.perf_counter()

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        status = "OK"
        try:
            if isinstance(error, grpc.aio.AbortError):
                code = self._context.code()
                status = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
            elif isinstance(error, Exception):
                told = _told(error, self._method)
                status = TREATMENTS[told.kind].grpc_status
                await self._abort(told, status)
            elif error is not None:
                status = "CANCELLED"
        finally:
            attributes = {
                "rpc.system.name": "grpc",
                "rpc.method": self._method.removeprefix("/"),
                "rpc.response.status_code": status,
            }
            _CALLS.record(time.perf_counter() - self._began, attributes)

    async def _abort(self, told: PenstockError, status: str) -> None:
        span = trace.get_current_span()
        span.set_attribute("rpc.response.status_code", status)
        if status in _OUR_FAULT:
            span.set_status(trace.StatusCode.ERROR, told.message)
        await self._context.abort(getattr(grpc.StatusCode, status), str(told), metadata_of(told))


def _told(error: Exception, method: str) -> PenstockError:
    match error:
        case PenstockError():
            return error
        case TimeoutError():
            why = f"no answer within {DEFAULT_DEADLINE_S:.0f} s"
            return error_of(Kind.DEADLINE, why, remedy="Set a longer deadline")
        case grpc.RpcError():
            return error_of_call(error)
        case ValidationError() if hasattr(events, error.title):  # what the caller gave fits no event
            first = error.errors(include_url=False)[0]
            return Invalid(first["msg"], where=".".join(map(str, first["loc"])))
    log.error("request_failed", method=method, exc_info=error)
    return PenstockError(
        "an internal error; the service's log has it", remedy="Look for request_failed in `penstock logs`"
    )
