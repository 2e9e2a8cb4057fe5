"""Calls of one method of a peer: short ones over a connection of their own (`unary.py`), all others by
grpc.aio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import grpc
from grpc.aio import AioRpcError

from penstock_inference.door.xds import is_ip
from penstock_inference.headers import field_of
from penstock_inference.unary import SHORT_BYTES, NotBegun, Unary, connected

# Age at which a connection is left: a name may stand for several replicas, and for others by now.
RENEW_S: Final = 10.0

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Reply:
    """Message, and the header of the answer that was asked for."""

    message: Any
    header: str | bytes | None = None


class Short:
    def __init__(
        self,
        address: str,
        method: str,
        by_channel: Callable[..., Any],
        read: Callable[[bytes], Any],
        *,
        retried: bool,
    ) -> None:
        """`method` as in `/package.Service/Method`, `by_channel` the same of a grpc.aio stub, `read` reads
        an answer. `retried`: the channel tries again what is UNAVAILABLE.
        """
        self._address = address
        self._renewed_after_s = inf if is_ip(address) else RENEW_S
        self._method = method
        self._by_channel = by_channel
        self._read = read
        self._retried = retried
        self._connection: Unary | None = None
        self._connecting: asyncio.Task[Unary] | None = None
        self._opened = 0.0

    async def __call__(
        self, request: Any, within_s: float, metadata: Metadata = (), *, header: str | None = None
    ) -> Reply:
        """Raises grpc.aio.AioRpcError. `header`: name of one that the answer has."""
        ends, size = time.monotonic() + within_s, request.ByteSize()
        try:
            if size <= SHORT_BYTES and (short := await self._connected()).takes(size):
                answer = await short.call(request.SerializeToString(), ends - time.monotonic(), metadata)
                return Reply(self._read(answer.message), field_of(answer.head, header) if header else None)
        except NotBegun:
            pass
        except AioRpcError as error:
            if not self._is_tried_again(error):
                raise
        call = self._by_channel(request, timeout=ends - time.monotonic(), metadata=metadata)
        return Reply(await call, dict(await call.initial_metadata()).get(header) if header else None)

    def close(self) -> None:
        if self._connecting:
            self._connecting.cancel()
        if self._connection:
            self._connection.close()

    async def _connected(self) -> Unary:
        known = self._connection if self._connection and not self._connection.closed else None
        if known and time.monotonic() - self._opened < self._renewed_after_s:
            return known
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(_heard)
        if known:  # an old one does until there is another: looking a name up may take a second, or fail
            return known
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Unary:
        made = await connected(self._address, self._method)
        if self._connection:
            self._connection.leave()
        self._connection, self._opened = made, time.monotonic()
        return made

    def _is_tried_again(self, error: AioRpcError) -> bool:
        # As grpc.aio does: not once the peer has begun to answer.
        unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
        if unavailable and self._connection:
            self._connection.leave()  # perhaps another replica can
        return unavailable and self._retried and not error.initial_metadata()


def _heard(connecting: asyncio.Task[Unary]) -> None:
    # That it failed is nobody's loss where an old connection did.
    if not connecting.cancelled():
        connecting.exception()
