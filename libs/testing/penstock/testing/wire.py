"""A wire between two programs that can be cut, left hanging, slowed down and counted: a TCP proxy.

with Wire(to=9443) as wire:
    site = start(hub=wire.address)
    wire.cut()  # resets what is open, and each new connection
    wire.hang()  # takes bytes and passes none, as a dead WAN does
    wire.mend()
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Final, Literal, Self

_CHUNK: Final = 1 << 14
_ENDS_WITHIN_S: Final = 5.0
_SEGMENT: Final = 1448  # bytes of TCP in an Ethernet frame
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection

State = Literal["whole", "cut", "hanging"]


class Wire:
    """Passes bytes on a thread of its own. Safe from any thread."""

    def __init__(self, to: int, host: str = "127.0.0.1") -> None:
        self._to = (host, to)
        self._state: State = "whole"
        self._writers: set[asyncio.StreamWriter] = set()
        self._left: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self.rate: float | None = None
        """Bytes a second towards the client of each connection; None: as fast as it goes."""
        self.connections = self.up = self.down = self.segments = 0
        """Connections so far, bytes from their clients and to them, TCP segments that would carry them."""

    def __enter__(self) -> Self:
        self._thread.start()
        listens = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4 * _CHUNK)
        self._server = asyncio.run_coroutine_threadsafe(listens, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._turn("cut")
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Resets all connections, and new ones as they come."""
        self._turn("cut")

    def hang(self) -> None:
        """Swallows what is sent and says nothing."""
        self._turn("hanging")

    def mend(self) -> None:
        """Passes bytes again. Connections that hung are reset: what they lost does not come back."""
        self._turn("whole")

    def cut_after(self, size: int) -> None:
        """Resets all connections once, when so many more bytes have gone to clients."""
        self._left = size

    def _turn(self, state: State) -> None:
        async def turn() -> None:
            if "cut" in (state, self._state) or self._state == "hanging":
                self._reset()
            self._state = state

        asyncio.run_coroutine_threadsafe(turn(), self._loop).result()

    async def _end(self) -> None:
        self._server.close()
        if passing := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(passing, timeout=_ENDS_WITHIN_S)  # their connections are reset

    def _reset(self) -> None:
        for writer in self._writers:
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self._state == "cut":
                self._reset()
                return
            far_reader, far = await asyncio.open_connection(*self._to, limit=4 * _CHUNK)
            self._writers.add(far)
            await asyncio.gather(
                self._pass(reader, far, to_client=False), self._pass(far_reader, writer, to_client=True)
            )
            self._writers.discard(far)
        except OSError:  # nobody listens there
            _abort(writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                if self._state == "hanging":
                    continue
                self.segments += -(-len(data) // _SEGMENT)
                if not to_client:
                    self.up += len(data)
                elif not await self._comes_through(len(data)):
                    return
                sink.write(data)
                await sink.drain()
        sink.close()

    async def _comes_through(self, size: int) -> bool:
        self.down += size
        if self.rate:
            await asyncio.sleep(size / self.rate)  # so many bytes a second
        if self._left is not None:
            self._left -= size
            if self._left <= 0:
                self._left = None
                self._reset()
                return False
        return True


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
