"""State that a service reads from topics before it decides or answers anything.

A start has phases, in this order: the database is there and migrated; all registered state is
restored; handlers, servicers and streams run; the service is ready. What is registered with a
service is behind them by construction, so that none can be forgotten.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from sqlalchemy.orm import Session

from penstock.runtime.readiness import Readiness
from penstock.runtime.router import Router
from penstock.runtime.store import Effect, Store

THING = "start"  # what readiness waits for until the last phase has begun


class Restored:
    """State that is read from topics at a start. Registered with `service.restores`.

    `router` has its replays; None where nothing has to be read. It is `complete` once everything
    that the topics held at the start has become part of it.
    """

    router: Router | None = None
    complete = False

    async def look(self) -> None:
        """Finds out whether anything has to be read; called once, before `router` is looked at.

        May raise DatabaseAway: it is called again when the database is back.
        """

    async def restore(self) -> None:
        """Finishes the state; called once all of the topics' past went through the replays.

        May raise DatabaseAway: it is called again when the database is back.
        """


class History(Restored, ABC):
    """Events that a service once published, read before it decides anything when its database is empty.

    Collects what the topics hold, then writes all of it in one transaction. A database that holds
    something is its service's history already: nothing is read, and it is never touched.

        class TallyHistory(History):
            def __init__(self, store):
                super().__init__(store, "penstock.tally.history")
            def reading(self, router): ...   # on_replay handlers that collect
            def empty(self, session): ...
            def write(self, effect): ...

        await service.restores(TallyHistory(store))
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


class Phases:
    """Restores a service's state in the order of registration, then lets the rest begin."""

    def __init__(self, readiness: Readiness, *, answer: Callable[[], None]) -> None:
        """`answer` is called when calls can be answered, which may be before everything is restored."""
        self._readiness = readiness
        self._answer = answer
        self._states: dict[Restored, bool] = {}  # and whether calls wait for it
        self._complete = asyncio.Event()

    @property
    def routers(self) -> tuple[Router, ...]:
        return tuple(state.router for state in self._states if state.router is not None)

    def add(self, state: Restored, *, before_calls: bool) -> None:
        """`before_calls`: no call is answered before it is complete."""
        state.complete = state.router is None
        self._states[state] = before_calls

    def begin(self) -> None:
        """Lets begin at once what waits for nothing."""
        if topics := {topic for router in self.routers for topic in router.replayed_topics}:
            self._readiness.waits_for(THING, f"restores its state from {', '.join(sorted(topics))}")
        self._let_begin()

    async def run(self) -> None:
        """Waits while Kafka is away. May be run again after it raised DatabaseAway."""
        for state in self._states:
            if state.router is not None and not state.complete:
                for topic in state.router.replayed_topics:
                    await state.router.caught_up(topic)
                await state.restore()
                state.complete = True
                self._let_begin()

    async def completed(self) -> None:
        """Returns once all state is restored."""
        await self._complete.wait()

    def _let_begin(self) -> None:
        if all(state.complete for state, before_calls in self._states.items() if before_calls):
            self._answer()
        if all(state.complete for state in self._states):
            self._complete.set()
            self._readiness.has(THING)
