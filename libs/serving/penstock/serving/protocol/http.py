"""Protocol over HTTP, as an ASGI application. Every answer is the protocol's JSON, errors too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import grpc
import orjson
import structlog

from penstock.contracts.errors import TREATMENTS, PenstockError
from penstock.serving.protocol.http_request import (
    MAX_REQUEST_BYTES,
    Head,
    HttpRequest,
    TooLarge,
    read_request,
)
from penstock.serving.protocol.http_response import write_response
from penstock.serving.protocol.tensors import Grown, Undecodable

log = structlog.get_logger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]
Infer = Callable[[Any], Awaitable[tuple[Any, Headers]]]
"""Answers a ModelInferRequest with a ModelInferResponse, and headers for it."""

# Options of the uvicorn that serves it: fast, within a loop that runs, without what nobody asks for.
UVICORN: Final[Mapping[str, Any]] = {
    "http": "httptools",
    "loop": "none",
    "ws": "none",
    "lifespan": "off",
    "proxy_headers": False,
    "access_log": False,
    "log_config": None,
    "server_header": False,
    "date_header": False,
    "timeout_graceful_shutdown": 8,
}
REFUSAL_HEADER: Final = "x-penstock-refusal"  # why a call was refused

MANY: Final = 64  # inferences that are read and in flight at a time
LARGE_BYTES: Final = 1 << 20  # of bodies over this size, decompressed, one is in hand at a time

_REASON_BYTES: Final = 400
_MODEL: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready)?")
_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class _Gone(Exception):
    """The client has left."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    headers: Headers = ((b"content-type", b"application/json"),)


class Backend(Protocol):
    """Server of models behind the application. Its methods, and `Infer`, raise PenstockError or
    grpc.aio.AioRpcError.
    """

    async def live(self) -> bool: ...

    async def ready(self) -> bool: ...

    async def server(self) -> Any:
        """Describes itself as a ServerMetadataResponse."""

    async def model_ready(self, name: str, version: str) -> bool: ...

    async def model(self, name: str, version: str) -> Any:
        """Describes a model as a ModelMetadataResponse."""


class HttpApplication:
    def __init__(self, backend: Backend, infer: Infer) -> None:
        self._backend = backend
        self._infer_one = infer
        self._many = asyncio.Semaphore(MANY)
        self._large = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            answer = await (self._infer if scope["method"] == "POST" else self._describe)(scope, receive)
        except TooLarge as error:
            answer = _error(413, str(error))
        except Undecodable as error:
            answer = _error(400, str(error))
        except grpc.aio.AioRpcError as error:
            answer = _refusal(error.code(), error.details() or "")
        except PenstockError as error:
            answer = _refusal(grpc.StatusCode[TREATMENTS[error.kind].grpc_status], str(error))
        except _Gone:
            return
        except Exception:
            log.exception("request_failed", path=scope["path"])
            answer = _error(500, "an internal error; the log has it")
        length = (b"content-length", str(len(answer.body)).encode())
        start = {"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})

    async def _infer(self, scope: Message, receive: Receive) -> _Answer:
        head = _head(scope)
        async with self._many:
            body, ended = await _body(receive, LARGE_BYTES)
            if ended and len(body) <= LARGE_BYTES:
                with suppress(Grown):
                    request = read_request(head, body, most=LARGE_BYTES)
                    return _answer(request, *await self._infer_one(request.message))
            # A long one waits for its turn, and is read beside the event loop, so that others are
            # answered meanwhile.
            async with self._large:
                if not ended:
                    rest, _ = await _body(receive, MAX_REQUEST_BYTES - len(body))
                    body += rest
                if len(body) > MAX_REQUEST_BYTES:
                    raise TooLarge(f"the request is larger than {MAX_REQUEST_BYTES >> 20} MiB")
                request = await asyncio.to_thread(read_request, head, body)
                return _answer(request, *await self._infer_one(request.message))

    async def _describe(self, scope: Message, receive: Receive) -> _Answer:
        match scope["path"]:
            case "/live":  # of this process alone, whatever the backend is
                return _json({})
            case "/v2":
                server = await self._backend.server()
                return _json(
                    {"name": server.name, "version": server.version, "extensions": list(server.extensions)}
                )
            case "/v2/health/live":
                return _state("live", await self._backend.live())
            case "/v2/health/ready":
                return _state("ready", await self._backend.ready())
        if found := _MODEL.fullmatch(scope["path"]):
            name, version = found[1], found[2] or ""
            if found[3]:
                return _state("ready", await self._backend.model_ready(name, version), name=name)
            return _json(_model(await self._backend.model(name, version)))
        return _error(404, "there is no such path")


def _head(scope: Message) -> Head:
    encoding = length = None
    for name, value in scope["headers"]:
        # One that came twice is joined, as Envoy tells it to the script that records.
        if name == b"content-encoding":
            encoding = _joined(encoding, value)
        elif name == b"inference-header-content-length":
            length = _joined(length, value)
    return Head(scope["raw_path"].decode("latin-1"), encoding, length)


def _joined(before: str | None, value: bytes) -> str:
    said = value.decode("latin-1")
    return said if before is None else f"{before},{said}"


async def _body(receive: Receive, at_most: int) -> tuple[bytes, bool]:
    # What comes next of the body, and whether it ends there; not much more than `at_most` is read.
    body, ended = bytearray(), False
    while not ended and len(body) <= at_most:
        part = await receive()
        if part["type"] == "http.disconnect":
            raise _Gone
        body += part.get("body", b"")
        ended = not part.get("more_body", False)
    return bytes(body), ended


def _answer(request: HttpRequest, response: Any, headers: Headers) -> _Answer:
    try:
        body, json_bytes = write_response(response, request.wants_binary)
    except Undecodable as error:
        return _error(500, str(error))
    if json_bytes is None:
        return _Answer(200, body, (*_Answer.headers, *headers))
    binary = (
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", str(json_bytes).encode()),
    )
    return _Answer(200, body, (*binary, *headers))


def _json(said: dict[str, Any], status: int = 200) -> _Answer:
    return _Answer(status, orjson.dumps(said))


def _error(status: int, said: str) -> _Answer:
    return _json({"error": said}, status)


def _state(kind: str, holds: bool, **more: str) -> _Answer:
    return _json({**more, kind: holds}, 200 if holds else 503)


def _refusal(code: grpc.StatusCode, said: str) -> _Answer:
    answer = _error(_STATUS.get(code, 500), said)
    reason = quote(said, safe=" ':").encode()[:_REASON_BYTES]
    return _Answer(answer.status, answer.body, (*answer.headers, (REFUSAL_HEADER.encode(), reason)))


def _model(found: Any) -> dict[str, Any]:
    def tensors(listed: Any) -> list[dict[str, Any]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in listed]

    return {
        "name": found.name,
        "versions": list(found.versions),
        "platform": found.platform,
        "inputs": tensors(found.inputs),
        "outputs": tensors(found.outputs),
    }
