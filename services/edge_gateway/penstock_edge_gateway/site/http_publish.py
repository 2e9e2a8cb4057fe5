"""Publishing over HTTP, as an ASGI application, for programs that speak nothing else.

`POST /v1/pipelines/{pipeline}/sources/{source}/events` takes one event, a JSON object, or a list of
them, and answers when those that were accepted are on disk: 200, or 422 where none was.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import orjson

from penstock.contracts.errors import Kind, PenstockError
from penstock_edge_gateway.site.publisher import Publisher

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES: Final = 4 << 20
_PATH: Final = re.compile(r"/v1/pipelines/([^/]+)/sources/([^/]+)/events")
_STATUS: Final = {Kind.NOT_FOUND: 404, Kind.CONFLICT: 409, Kind.TOO_LARGE: 507, Kind.UNAVAILABLE: 503}


class PublishOverHttp:
    """Takes events; what is asked for elsewhere goes to `others`."""

    def __init__(self, publisher: Publisher, others: Application) -> None:
        self._publisher = publisher
        self._others = others

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        found = _PATH.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if not found:
            await self._others(scope, receive, send)
            return
        body = await _body(receive)
        status, said = await self._publish(found[1], found[2], body)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(said)})

    async def _publish(
        self, pipeline: str, source: str, body: bytes | None
    ) -> tuple[int, Mapping[str, object]]:
        if body is None:
            return 413, {"error": f"a body has at most {MAX_BODY_BYTES >> 20} MiB; send it in parts"}
        events = _events(body)
        try:
            rejects = await self._publisher.publish(pipeline, source, events)
        except PenstockError as error:
            return _STATUS.get(error.kind, 500), {"error": str(error)}
        told = [
            {"index": place, "reason": one.reason, "field": one.field, "detail": one.detail}
            for place, one in rejects.items()
        ]
        accepted = len(events) - len(told)
        return 200 if accepted or not told else 422, {"accepted": accepted, "rejected": told}


def _events(body: bytes) -> list[bytes]:
    # One event is judged as it is written, also where it is no JSON.
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return [body]
    return [orjson.dumps(one) for one in said] if isinstance(said, list) else [body]


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None where it is too large, and read no further."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)
