"""Tells those who wait that the lake holds more, from the stream's thread to any other and to the
event loop.
"""

from __future__ import annotations

import asyncio
import threading


class Arrivals:
    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @property
    def count(self) -> int:
        """Rises with every arrival."""
        return self._count

    def tell(self) -> None:
        """Wakes every waiter. Callable from any thread."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()
            waiting = list(self._waiting.items())
        for event, loop in waiting:
            loop.call_soon_threadsafe(event.set)

    def wait_blocking(self, seen: int, timeout_s: float) -> int:
        """Until the count is not `seen`, at most so long; returns the count."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen, timeout_s)
            return self._count

    async def wait(self, seen: int, timeout_s: float) -> int:
        event = asyncio.Event()
        with self._condition:
            if self._count != seen:
                return self._count
            self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._condition:
                self._waiting.pop(event, None)
        return self._count
