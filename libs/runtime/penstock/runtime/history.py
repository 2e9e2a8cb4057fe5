"""A service that starts with an empty database reads what it once published before it decides anything.

class History(runtime.History):
    def __init__(self, store):
        super().__init__(store, "penstock.tally.history")
    def reading(self, router): ...   # on_replay handlers that collect
    def empty(self, session): ...
    def write(self, effect): ...
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from sqlalchemy.orm import Session

from penstock.runtime.router import Router
from penstock.runtime.store import Effect, Store


async def at_once() -> None:
    """For who has nothing to wait for."""


class History(ABC):
    """Collects until it has caught up, then writes all of it in one transaction; until then `known` waits."""

    def __init__(self, store: Store, group: str) -> None:
        """`group` names what is read; no group is joined."""
        self._store = store
        self._known = asyncio.Event()
        with store.snapshot() as session:
            empty = self.empty(session)
        self.router: Router | None = Router(group=group) if empty else None
        """To be consumed; None where the database holds something, which is never touched."""
        if self.router is not None:
            self.reading(self.router)
        else:
            self._known.set()

    async def known(self) -> None:
        """Returns once the service knows what it once published. Waits while Kafka is away, but
        only with an empty database.
        """
        await self._known.wait()

    async def restore(self) -> None:
        """To run in the background."""
        if self.router is not None:
            for topic in self.router.replayed_topics:
                await self.router.caught_up(topic)
            await self._store.write(self._write)
        self._known.set()

    def _write(self, effect: Effect) -> None:
        if self.empty(effect.session):  # another replica may have been faster
            self.write(effect)

    @property
    def is_known(self) -> bool:
        """What comes then is no history."""
        return self._known.is_set()

    @abstractmethod
    def reading(self, router: Router) -> None:
        """Gives the router its `on_replay` handlers, which collect until `is_known`."""

    @abstractmethod
    def empty(self, session: Session) -> bool: ...

    @abstractmethod
    def write(self, effect: Effect) -> None: ...
