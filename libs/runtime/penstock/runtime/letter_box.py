"""A group's dead letters on their way: those that come together become durable together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from penstock.runtime.backoff import Backoff
from penstock.runtime.cloud_events import Received
from penstock.runtime.dead_letters import AT_ONCE, DeadLetters, Letter, Refused

log = structlog.get_logger(__name__)

LINGER_S: Final = 0.2  # that a letter waits for others, where nobody waits for it
LONGEST_S: Final = 10.0  # between two tries, while Kafka refuses
CLOSE_S: Final = 2.0


class Behind(Exception):
    """A message would take effect before the letter of one before it, of its key, is durable."""


class LetterBox:
    """Box for dead letters. Writes from the first one on, and tries again until Kafka has it. Used on
    the event loop alone.
    """

    def __init__(
        self,
        letters: DeadLetters,
        *,
        changed: Callable[[], None],
        written: Callable[[Sequence[Received]], None] = lambda _: None,
    ) -> None:
        """`changed` is called when `why` is another; `written` with messages whose letters are durable."""
        self.why = ""  # letters wait; empty while Kafka takes them
        self._letters = letters
        self._told, self._changed = written, changed
        self._waiting: list[Letter] = []
        self._wanted = asyncio.Event()
        self._round = asyncio.Condition()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def topics(self) -> set[str]:
        """Topics whose letters wait. From any thread."""
        return {letter.received.topic for letter in self._waiting}

    async def put(self, letter: Letter) -> None:
        """Returns when there is room for another one."""
        self._waiting.append(letter)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await self._until(lambda: len(self._waiting) < AT_ONCE)

    def pass_by(self, received: Received) -> None:
        """Raises Behind where a letter of the same key waits. From any thread."""
        if self._holds(received):
            raise Behind

    async def written(self, before: Received | None = None) -> None:
        """Waits for the letters of one message's key, or for all."""
        await self._until(lambda: not (self._holds(before) if before else self._waiting))

    async def close(self, within_s: float = CLOSE_S) -> None:
        """Leaves what is not written by then: its message comes again."""
        self._wanted.set()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=within_s)
            self._writing.cancel()
        self._closed = True
        async with self._round:
            self._round.notify_all()

    def _holds(self, received: Received) -> bool:
        lane = received.lane
        return any(letter.received.lane == lane for letter in self._waiting)

    async def _until(self, done: Callable[[], bool]) -> None:
        if not done():
            self._wanted.set()
            async with self._round:
                await self._round.wait_for(lambda: self._closed or done())

    async def _write(self) -> None:
        delay = Backoff(first=LINGER_S, longest=LONGEST_S)
        while self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._wanted.wait()
            self._wanted.clear()
            batch = self._waiting[:AT_ONCE]
            refused = await self._try(batch)
            again = [letter for letter, _ in refused]
            self._waiting = self._waiting[len(batch) :] + again  # behind others, which may be taken
            self._told([one.received for one in batch if one not in again])
            async with self._round:
                self._round.notify_all()
            if why := f"dead letters wait: {refused[0][1]}" if refused else "":
                log.warning("dead_letter_waits", place=again[0].received.place, why=why)
            if why != self.why:
                self.why = why
                self._changed()
            if refused:
                await asyncio.sleep(delay.next())
            else:
                delay = Backoff(first=LINGER_S, longest=LONGEST_S)

    async def _try(self, batch: Sequence[Letter]) -> Refused:
        try:
            return await asyncio.to_thread(self._letters.put, batch)
        except Exception as failure:
            return [(letter, failure) for letter in batch]
