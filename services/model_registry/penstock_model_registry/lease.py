"""Lease on the topics of pipelines: one task of all replicas makes or removes them at a time. Of a deleted
pipeline's name another replica may just have made new ones that no file claims yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final

from penstock.runtime.effect import Effect
from penstock.runtime.leases import drop_lease, holder_of, take_lease
from penstock.runtime.store import Store

NAME: Final = "topics"
LENGTH: Final = timedelta(seconds=60)
"""Longer than topics are made or removed; a replica that died keeps the others waiting for so long."""
LOOK_EVERY_S: Final = 0.2


class TopicsLease:
    """Waits in `async with` for this replica's other tasks, and for the other replicas. Safe from the
    event loop alone.
    """

    def __init__(self, store: Store, replica: str, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._replica = replica
        self._clock = clock
        self._here = asyncio.Lock()

    def keep(self, effect: Effect) -> bool:
        """Takes it or makes it last; False where another replica has it."""
        return take_lease(effect, NAME, self._replica, self._clock(), LENGTH)

    def held(self, effect: Effect) -> bool:
        """Tells whether nobody else has had it since it was taken."""
        return holder_of(effect, NAME) == self._replica

    async def __aenter__(self) -> None:
        await self._here.acquire()
        try:
            while not await self._store.write(self.keep):  # noqa: ASYNC110  the other is another process
                await asyncio.sleep(LOOK_EVERY_S)
        except BaseException:
            self._here.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._store.write(lambda effect: drop_lease(effect, NAME, self._replica))
        finally:
            self._here.release()
