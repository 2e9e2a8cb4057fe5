"""Tells those who wait that the lake holds more, from the stream's thread to any other and to the
event loop.
"""

from __future__ import annotations

import asyncio
import threading


class Arrivals:
    def __init__(self) -> None:
        self.count = 0  # rises with every arrival
        self._condition = threading.Condition()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def tell(self) -> None:
        """Wakes every waiter. Callable from any thread."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()
            for event, loop in self._waiting.items():
                loop.call_soon_threadsafe(event.set)

    def wait_blocking(self, seen: int, timeout_s: float) -> None:
        """Until the count is not `seen`, at most `timeout_s` seconds."""
        with self._condition:
            self._condition.wait_for(lambda: self.count != seen, timeout_s)

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Waits as `wait_blocking` does, on the event loop."""
        event = asyncio.Event()
        with self._condition:
            if self.count != seen:
                return
            self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._condition:
                del self._waiting[event]
