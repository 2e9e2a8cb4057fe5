"""Changes of rows, told to those who watch them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator


class Changes:
    """Wakes who watches a row, by its id. A hint only: what is true is in the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: dict[asyncio.Event, tuple[str, asyncio.AbstractEventLoop]] = {}

    def tell(self, row: str) -> None:
        """Wakes those who watch the row. Callable from any thread."""
        with self._lock:
            for event, (watched, loop) in self._watchers.items():
                if watched == row:
                    loop.call_soon_threadsafe(event.set)

    async def watch(self, row: str) -> AsyncIterator[None]:
        """Yields at once, then after each change, and every few seconds besides."""
        event = asyncio.Event()
        with self._lock:
            self._watchers[event] = row, asyncio.get_running_loop()
        try:
            while True:
                event.clear()
                yield
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), 5)
        finally:
            with self._lock:
                del self._watchers[event]
