"""Lanes: work in the order of its key, in which what waits holds back its own key alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Lanes(Generic[K]):
    """Lanes of work by key, used on the event loop alone. `changed` is called when work begins to wait,
    and when it has ended.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.waiting = 0  # pieces of work that are not done
        self._changed = changed
        self._last: dict[K, asyncio.Task[None]] = {}

    @property
    def keys(self) -> list[K]:
        """Keys under which work waits. From any thread."""
        return list(self._last)

    async def run(self, key: K, work: Callable[[], Awaitable[None]], waits: Awaitable[object]) -> None:
        """Returns when the work is done, or waits: `waits` has come to its end, or it stands behind work
        of its key. Raises what the work raises until then.
        """
        ahead = self._last.get(key)
        task, waiting = asyncio.create_task(_after(ahead, work)), asyncio.ensure_future(waits)
        try:
            if ahead is None:
                await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            waiting.cancel()
        if task.done():
            task.result()
        else:
            self._last[key] = task
            self.waiting += 1
            task.add_done_callback(partial(self._done, key))
            self._changed()

    async def close(self, within_s: float = 0) -> None:
        """Cancels what still waits after so long."""
        tasks = list(self._last.values())
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: K, task: asyncio.Task[None]) -> None:
        self.waiting -= 1
        if self._last.get(key) is task:
            del self._last[key]
        self._changed()


async def _after(ahead: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]]) -> None:
    if ahead is not None:
        await ahead
    await work()
