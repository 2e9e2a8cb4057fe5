"""State that a service reads from topics before it decides or answers anything.

A start has phases, in this order: the database is there and migrated; all registered state is
restored; handlers, servicers and streams run; the service is ready. What is registered with a
service is behind them by construction, so that none can be forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.runtime.readiness import Readiness
from penstock.runtime.router import Router

THING = "start"
"""Thing that readiness waits for until the last phase has begun."""


class Restored:
    """State that is read from topics at a start. Registered with `service.restores`."""

    router: Router | None = None
    """Its replays. None where nothing has to be read: it is complete from the start."""
    complete = False
    """Whether everything that the topics held at the start has become part of it."""

    async def look(self) -> None:
        """Finds out whether anything has to be read; called once, before `router` is looked at.

        May raise DatabaseAway: it is called again when the database is back.
        """

    async def restore(self) -> None:
        """Finishes the state; called once all of the topics' past went through the replays.

        May raise DatabaseAway: it is called again when the database is back.
        """


class Phases:
    """Restores a service's state in the order of registration, then lets the rest begin."""

    def __init__(self, readiness: Readiness, *, answer: Callable[[], None]) -> None:
        """`answer` is called when calls can be answered, which may be before everything is restored."""
        self._readiness = readiness
        self._answer = answer
        self._states: list[Restored] = []
        self._before_calls: list[Restored] = []
        self._complete = asyncio.Event()

    @property
    def routers(self) -> tuple[Router, ...]:
        return tuple(state.router for state in self._states if state.router is not None)

    def add(self, state: Restored, *, before_calls: bool) -> None:
        """`before_calls`: no call is answered before it is complete."""
        state.complete = state.router is None
        if state.router is not None:
            self._states.append(state)
            if before_calls:
                self._before_calls.append(state)

    def begin(self) -> None:
        """Lets begin at once what waits for nothing."""
        if self._states:
            topics = sorted({topic for router in self.routers for topic in router.replayed_topics})
            self._readiness.waits_for(THING, f"restores its state from {', '.join(topics)}")
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
        if all(state.complete for state in self._before_calls):
            self._answer()
        if all(state.complete for state in self._states):
            self._complete.set()
            self._readiness.has(THING)
