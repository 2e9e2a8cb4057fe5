"""A service that starts with an empty database reads what it once published before it decides anything.

class History(runtime.History):
    def __init__(self, store):
        super().__init__(store, "penstock.tally.history")
    def reading(self, router): ...   # on_replay handlers that collect
    def empty(self, session): ...
    def write(self, effect): ...

await service.restores(History(store))
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sqlalchemy.orm import Session

from penstock.runtime.restore import Restored
from penstock.runtime.router import Router
from penstock.runtime.store import Effect, Store


class History(Restored, ABC):
    """Collects what the topics hold, then writes all of it in one transaction. A database that holds
    something is its service's history already: nothing is read, and it is never touched.
    """

    def __init__(self, store: Store, group: str) -> None:
        """`group` names what is read; no group is joined."""
        self._store = store
        self._group = group

    async def look(self) -> None:
        if await self._store.read(self.empty):
            self.router = Router(group=self._group)
            self.reading(self.router)

    async def restore(self) -> None:
        if self.router is None:
            return
        self.router.replays.clear()  # what comes from now on is no history
        await self._store.write(self._write)

    def _write(self, effect: Effect) -> None:
        if self.empty(effect.session):  # another replica may have been faster
            self.write(effect)

    @abstractmethod
    def reading(self, router: Router) -> None:
        """Gives the router its `on_replay` handlers, which collect."""

    @abstractmethod
    def empty(self, session: Session) -> bool: ...

    @abstractmethod
    def write(self, effect: Effect) -> None: ...
