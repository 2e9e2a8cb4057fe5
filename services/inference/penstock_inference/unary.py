"""Short gRPC calls to one method, over one HTTP/2 connection (RFC 9113, and gRPC's over it).

A call by grpc.aio crosses to another thread and back, which costs more than all that the gateway or
`Predict` do beside it. This is the part of HTTP/2 that a call needs whose message fits into one frame;
whatever else there is stays with grpc.aio (`short.py`): large messages, a server that is not there,
calls that it did not begin.

The server is told to keep no table of headers, so each block of them can be read by itself.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import unquote

import grpc
import structlog
from grpc.aio import AioRpcError, Metadata
from hpack import HPACKError

from penstock.runtime.local_http import UNIX
from penstock_inference.headers import Fields, block, fields_of

log = structlog.get_logger(__name__)

SHORT_BYTES: Final = 64 << 10  # longest message of a request
CONNECT_S: Final = 1.0

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8  # types of frames
END_STREAM, ACK, END_HEADERS, UNUSUAL = 0x1, 0x1, 0x4, 0x28  # flags; unusual: padding and priority
TABLE_BYTES, STREAMS, WINDOW_BYTES, FRAME_BYTES = 1, 3, 4, 5  # settings
_REFUSED, _CANCEL = 7, 8  # codes of RESET
_LARGEST: Final = (1 << 31) - 1
_MOST_BYTES: Final = 64 << 20  # of an answer
_BEGIN: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_STATUS: Final = {str(code.value[0]): code for code in grpc.StatusCode}


class NotBegun(Exception):
    """Call that the server did not look at: it may be made again."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def refused(
    code: grpc.StatusCode, details: str, head: bytes = b"", trailers: Fields | None = None
) -> AioRpcError:
    return AioRpcError(code, Metadata(*fields_of(head).items()), Metadata(*(trailers or {}).items()), details)


@dataclass(frozen=True)
class Answer:
    """Bytes of the message, and the block of headers before it, which is read when it is asked for."""

    message: bytes
    head: bytes


@dataclass
class _Call:
    answer: asyncio.Future[Answer]
    head: bytes = b""
    body: bytearray = field(default_factory=bytearray)


class Unary(asyncio.Protocol):
    """Connection for calls to `method`, as in `/package.Service/Method`. It is closed for good by
    whatever it does not understand.
    """

    def __init__(self, method: str) -> None:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "penstock",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._head = block(fields.items())
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._limits: dict[int, int] = {}
        self._room = 65_535  # bytes that the server takes before it says more
        self._taken = 0  # bytes of answers since we last said how many more we take
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None
        self.settled = asyncio.Event()  # by the server's limits, or the end
        self.closed = False

    def takes(self, size: int) -> bool:
        """Tells whether a message of `size` bytes can be sent at once."""
        at_once = min(
            SHORT_BYTES,
            self._room,
            self._limits.get(WINDOW_BYTES, 65_535),
            self._limits.get(FRAME_BYTES, 16_384),
        )
        most = self._limits.get(STREAMS, _LARGEST)
        ended = self.closed or self._transport is None or self._transport.is_closing()
        return not ended and size + 5 <= at_once and len(self._calls) < most

    async def call(self, message: bytes, within_s: float, metadata: Iterable[tuple[str, str]] = ()) -> Answer:
        """Sends a message that the connection `takes`. Raises AioRpcError, and NotBegun where it may be
        made again. `metadata`: texts shorter than 127 bytes.
        """
        loop = asyncio.get_running_loop()
        number, call = self._next, _Call(loop.create_future())
        self._next += 2
        self.closed = self._next > _LARGEST  # the numbers are used up
        self._calls[number] = call
        left_ms = min(max(within_s, 0.0) * 1000, 99_999_999)
        head = self._head + block([("grpc-timeout", f"{left_ms:.0f}m"), *metadata])
        body = struct.pack(">BI", 0, len(message)) + message
        self._room -= len(body)
        self._write(frame(HEADERS, END_HEADERS, number, head) + frame(DATA, END_STREAM, number, body))
        timer = loop.call_later(within_s, self._too_late, number)
        try:
            return await call.answer
        finally:
            timer.cancel()
            if self._calls.pop(number, None):  # the caller has left
                self._write(frame(RESET, 0, number, struct.pack(">I", _CANCEL)))
            if self.closed and not self._calls:
                self.close()

    def leave(self) -> None:
        """Takes no further call; ends once those that have begun are answered."""
        self.closed = True
        if not self._calls:
            self.close()

    def _too_late(self, number: int) -> None:
        if call := self._calls.get(number):
            _fail(call, refused(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    # -- what comes --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        wanted = struct.pack(">HIHIHI", TABLE_BYTES, 0, WINDOW_BYTES, _LARGEST, FRAME_BYTES, 1 << 20)
        more = struct.pack(">I", _LARGEST - 65_535)
        self._write(_BEGIN + frame(SETTINGS, 0, 0, wanted) + frame(WINDOW, 0, 0, more))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        try:
            while len(buffer) >= at + 9:
                end = at + 9 + int.from_bytes(buffer[at : at + 3], "big")
                if len(buffer) < end:
                    break
                kind, flags, stream = struct.unpack_from(">BBI", buffer, at + 3)
                self._take(kind, flags, stream & _LARGEST, buffer[at + 9 : end])
                at = end
        except (ValueError, struct.error, HPACKError) as error:
            log.warning("peer_not_understood", why=str(error))
            self.close()
        self._buffer = buffer[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.settled.set()
        for number in list(self._calls):
            self._lose(number, f"the connection ended: {error or 'closed'}")

    def close(self) -> None:
        self.closed = True
        if self._transport:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._take_data(flags, stream, payload)
        elif kind == HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == RESET:
            code = int.from_bytes(payload, "big")
            if code == _REFUSED:
                self._end(stream, NotBegun())
            else:
                self._lose(stream, f"the call was reset with code {code}")
        elif kind == SETTINGS and not flags & ACK:
            said = dict(struct.iter_unpack(">HI", payload))
            self._limits |= said
            self._write(frame(SETTINGS, ACK, 0))
            self.settled.set()
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self.closed = True  # for new calls
            last = int.from_bytes(payload[:4], "big") & _LARGEST
            for number in [number for number in self._calls if number > last]:
                self._end(number, NotBegun())
        elif kind == WINDOW and not stream:
            self._room += int.from_bytes(payload, "big")

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & UNUSUAL:
            raise ValueError("data are padded")
        self._taken += len(payload)
        if self._taken > _LARGEST // 2:
            self._write(frame(WINDOW, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0
        if call := self._calls.get(stream):
            call.body += payload
            if len(call.body) > _MOST_BYTES:
                _fail(call, refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer is too large"))
        if flags & END_STREAM:
            self._end(stream, refused(grpc.StatusCode.UNKNOWN, "the answer ended without a status"))

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & UNUSUAL or not flags & END_HEADERS:
            raise ValueError("headers are padded, weighed or in pieces")
        if (call := self._calls.get(stream)) is None:
            return
        if not flags & END_STREAM:
            call.head = payload  # an answer follows; what ends it says whether it is one
            return
        trailers = fields_of(payload)
        code = _STATUS.get(str(trailers.get("grpc-status")), grpc.StatusCode.UNKNOWN)
        if code is not grpc.StatusCode.OK:
            said = unquote(str(trailers.get("grpc-message", "")))
            self._end(stream, refused(code, said, call.head, trailers))
            return
        body = bytes(call.body)
        if len(body) < 5 or struct.unpack_from(">BI", body) != (0, len(body) - 5):
            self._end(stream, refused(grpc.StatusCode.INTERNAL, "the answer is not one message", call.head))
        elif self._calls.pop(stream) and not call.answer.done():
            call.answer.set_result(Answer(body[5:], call.head))

    def _lose(self, stream: int, why: str) -> None:
        """Ends a call of which nobody says any more what became of it, with the head of its answer, if
        that had begun: it must not be made again then.
        """
        if call := self._calls.get(stream):
            try:
                self._end(stream, refused(grpc.StatusCode.UNAVAILABLE, why, call.head))
            except (ValueError, HPACKError):
                self._end(stream, refused(grpc.StatusCode.INTERNAL, f"{why}, its head is unreadable"))

    def _end(self, stream: int, why: Exception) -> None:
        if call := self._calls.pop(stream, None):
            _fail(call, why)


def _fail(call: _Call, why: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(why)


async def connected(address: str, method: str) -> Unary:
    """Opens a connection to `host:port`, or to `unix:` and a path. Raises AioRpcError where nobody
    answers there within a second, in the words of grpc.aio.
    """
    loop, made = asyncio.get_running_loop(), Unary(method)
    try:
        async with asyncio.timeout(CONNECT_S):
            if address.startswith(UNIX):
                await loop.create_unix_connection(lambda: made, address.removeprefix(UNIX))
            else:
                host, _, port = address.rpartition(":")
                await loop.create_connection(lambda: made, host.strip("[]"), int(port))
            await made.settled.wait()
        if not made.closed:
            return made
        why = "the connection ended"
    except OSError as error:
        why = str(error) or "no answer"
        made.close()
    raise refused(
        grpc.StatusCode.UNAVAILABLE, f"failed to connect to all addresses; last error: {address}: {why}"
    )
