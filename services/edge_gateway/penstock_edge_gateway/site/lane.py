"""A spool as the event loop uses it: what comes during one commit goes into the next one together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Final

from penstock.contracts.errors import Unavailable
from penstock_edge_gateway.site.spool import Batch, Record, Spool
from penstock_edge_gateway.site.spool_file import Full

UNDER_WAY_S: Final = 30.0  # that an erasure waits for a batch
_LOOK_EVERY_S: Final = 0.25
_LOG_BYTES: Final = 1 << 20  # a quarter of what SQLite lets it grow to
_GROUP_RECORDS: Final = 1000  # in one commit, but for a single call's


class Lane:
    """Events or predictions, in the order in which they are forwarded."""

    def __init__(self, name: str, spool: Spool) -> None:
        self.name, self.spool = name, spool
        self._waiting: list[tuple[Sequence[Record], asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self._batches: set[asyncio.Event] = set()  # under way; each is set when it is over
        self.sent = 0
        """Sequence up to which records are under way, or were."""
        self.full_since: datetime | None = None
        self.lost = 0
        """Records that it had no room for, since the start. No gap tells of them: they have no sequence."""
        self.refused: str | None = None
        """Why the hub takes nothing of it; None while it takes what it is sent."""

    def refuse(self, now: datetime) -> datetime:
        """Notes that nothing more is taken. Returns since when, by the wall clock."""
        self.full_since = self.full_since or now
        return self.full_since

    async def keep(self, records: Sequence[Record]) -> None:
        """Returns when all of the records are kept, in a commit that they share with others. Raises
        Full: none is.
        """
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append((records, kept))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        await kept
        self.full_since = None

    def keep_now(self, record: Record) -> None:
        """Keeps one before it returns, in a commit of its own: 20 µs where no disk is waited for.
        Raises Full.
        """
        self.spool.append([record])
        self.full_since = None
        self._arrived.set()

    async def checkpoint(self) -> None:
        """Keeps the log short, for as long as the site runs: one that grows long is moved by who appends,
        who here is the event loop.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self.spool.logged > _LOG_BYTES:
                await asyncio.to_thread(self.spool.checkpoint)

    @asynccontextmanager
    async def oldest(self, most: int, most_bytes: int, *, gather_s: float = 0.0) -> AsyncIterator[Batch]:
        """Waits for records behind those that are under way, and `gather_s` for more of them; the oldest
        are under way for as long as the block lasts. For one caller at a time until it has them.
        """
        while True:
            self._arrived.clear()
            if self.spool.reached + self.spool.waiting - self.sent < most:
                await asyncio.sleep(gather_s)
            with self._under_way():
                batch = await asyncio.to_thread(self.spool.read, most, most_bytes, self.sent)
                if batch.entries:
                    self.sent = batch.last
                    yield batch
                    return
            await self._arrived.wait()

    def again(self) -> None:
        """Has all that the hub has not confirmed read once more."""
        self.sent = self.spool.reached
        self._arrived.set()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        over = asyncio.Event()
        self._batches.add(over)
        try:
            yield
        finally:
            self._batches.remove(over)
            over.set()

    async def erase(self, pipeline: str, entity: str) -> None:
        """Erases an entity; returns when no batch that was read before is under way. Raises Unavailable
        where one is for long, or the disk has no room for it: try again.
        """
        try:
            await asyncio.to_thread(self.spool.erase, pipeline, entity)
        except Full as error:
            raise Unavailable("the disk is full, and nothing can be erased", where=self.name) from error
        try:
            async with asyncio.timeout(UNDER_WAY_S):
                for batch in list(self._batches):
                    await batch.wait()
        except TimeoutError as error:
            raise Unavailable("a batch that was read before is still under way", where=self.name) from error

    async def _commit(self) -> None:
        try:
            while group := self._next_group():
                records = [record for part, _ in group for record in part]
                error: Exception | None = None
                try:
                    await asyncio.to_thread(self.spool.append, records)
                except Exception as failed:
                    error = failed
                self._arrived.set()
                for _, kept in group:
                    if not kept.done():  # its caller may have gone
                        kept.set_exception(error) if error else kept.set_result(None)
        finally:
            self._committing = None

    def _next_group(self) -> list[tuple[Sequence[Record], asyncio.Future[None]]]:
        count = size = 0
        for records, _ in self._waiting:
            size += len(records)
            if count and size > _GROUP_RECORDS:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group
