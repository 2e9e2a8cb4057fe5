"""Threads that do blocking work for the event loop, for a bounded number of callers."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from penstock.contracts.errors import Unavailable

T = TypeVar("T")


class BoundedExecutor:
    """Work begins in the order of the calls. With one thread, it also ends in that order."""

    def __init__(self, name: str, *, threads: int, callers: int) -> None:
        """`callers` at most wait at a time, those whose work is under way included."""
        self._name = name
        self._callers = callers
        self._places = threading.BoundedSemaphore(callers)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name.replace(" ", "-"))

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns, which runs in a thread and in the caller's context.

        When the caller is cancelled, work that has not begun never begins, and work that has begun
        goes on to its end. Raises Unavailable when too many callers wait, or after `close`.
        """
        if not self._places.acquire(blocking=False):
            raise Unavailable(
                f"{self._callers} calls wait for it already", where=self._name, remedy="Try again later"
            )
        try:
            future = self._pool.submit(contextvars.copy_context().run, work)
        except RuntimeError as error:
            self._places.release()
            raise Unavailable("the service stops", where=self._name, remedy="Try again") from error
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Takes no more work, and blocks until all that was taken is done."""
        self._pool.shutdown()
