"""The pipelines as they were applied: each number for training sets, the newest with its lake and
its Feast repository.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog
from sqlalchemy import func, select

from penstock.contracts.errors import Invalid, NotFound, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.pipelines import Applied, AppliedPipelines, nearest
from penstock.runtime.store import Store
from penstock_feature_store.lake.lake import Lake, SourceLake
from penstock_feature_store.online.repository import Repository
from penstock_feature_store.online.stores import OnlineStore, OnlineStores
from penstock_feature_store.store import PipelineRow, keep_pipeline, newest_pipelines

log = structlog.get_logger(__name__)

GROUP = "penstock.feature_store"

P = ParamSpec("P")
T = TypeVar("T")


class Gate:
    """Training sets are built side by side, an erasure alone: none may be made of rows that are
    about to leave.
    """

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self._inside = 0
        self._alone = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._condition:
            await self._condition.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            async with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._condition:
            await self._condition.wait_for(lambda: not self._alone)
            self._alone = True
            await self._condition.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            async with self._condition:
                self._alone = False
                self._condition.notify_all()


class Held:
    """One pipeline as it was last applied, to be read online."""

    def __init__(self, pipeline: Pipeline, number: int, reader: OnlineStore) -> None:
        self.pipeline = pipeline
        self.number = number
        self.reader = reader

    def close(self) -> None:
        self.reader.close()

    def reference(self, reference: str) -> tuple[str, str]:
        """(source, field) of `source.field`. Raises Invalid that names the nearest."""
        source, _, field = reference.partition(".")
        known = [
            f"{name}.{each}" for name, declared in self.pipeline.sources.items() for each in declared.fields
        ]
        if reference not in known:
            raise Invalid(
                f"no field `{reference}`", where=self.pipeline.pipeline, remedy=nearest(reference, known)
            )
        return source, field


class Owned(Held):
    """A pipeline with its data, where this replica owns the lake."""

    def __init__(
        self,
        pipeline: Pipeline,
        number: int,
        lakes: Mapping[str, SourceLake],
        reader: OnlineStore,
        writer: OnlineStore,
        gate: Gate,
    ) -> None:
        super().__init__(pipeline, number, reader)
        self.lakes = lakes
        self.writer = writer
        self.gate = gate
        self.online = threading.Lock()
        """Held while rows go from the lake to the online store, and by an erasure."""

    async def alone(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """`work`, blocking, while no training set is built and nothing is written online."""

        def locked() -> T:
            with self.online:
                return work(*arguments, **named)

        async with self.gate.alone():
            return await asyncio.to_thread(locked)

    def close(self) -> None:
        super().close()
        self.writer.close()

    def source(self, name: str) -> SourceLake:
        """Raises Invalid that names the nearest."""
        if name not in self.lakes:
            raise Invalid(
                f"no source `{name}`", where=self.pipeline.pipeline, remedy=nearest(name, list(self.lakes))
            )
        return self.lakes[name]


class Pipelines:
    """Safe from any thread; `wait` from the event loop."""

    def __init__(
        self,
        store: Store,
        lake: Lake,
        stores: OnlineStores,
        folder: Path,
        added: Callable[[Pipeline, str, SourceLake], None],
        removed: Callable[[str, str], None],
    ) -> None:
        """`folder`: for Feast repositories. `added`, `removed`: told of each source of the lake, once
        it is owned.
        """
        self._store = store
        self._lake = lake
        self._stores = stores
        self._folder = folder
        self._added = added
        self._removed = removed
        self._lock = threading.Lock()
        self._applying = threading.Lock()
        self._owning = False
        self._held: dict[str, Held] = {}
        self._changed = asyncio.Condition()
        self.applied = AppliedPipelines(GROUP, follow=self._apply)

    async def reopen(self) -> bool:
        """Opens the pipelines as the database has them, from when the service ran last. False where
        it has none, or one cannot be opened.
        """
        try:
            for pipeline, number in await self._store.read(newest_pipelines):
                await asyncio.to_thread(self._open, pipeline, number)
        except Exception:  # whatever it is: the topic tells of all of them once more
            log.exception("pipelines_not_reopened")
            return False
        return bool(self._held)

    def own(self) -> None:
        """The lake is this replica's from now on. Blocking."""
        with self._applying:
            self._owning = True
            for held in list(self._held.values()):
                self._follow(held.pipeline, held.number, held)

    async def _apply(self, new: Applied, _old: Applied | None) -> None:
        pipeline, number = new.pipeline, new.number
        await self._store.write(lambda effect: keep_pipeline(effect.session, pipeline, number))
        await asyncio.to_thread(self._open, pipeline, number)
        async with self._changed:
            self._changed.notify_all()

    def _open(self, pipeline: Pipeline, number: int) -> None:
        with self._applying:
            known = self._held.get(pipeline.pipeline)
            if known is None or known.number < number:
                self._follow(pipeline, number, known)

    def _follow(self, pipeline: Pipeline, number: int, known: Held | None) -> None:
        held = self._opened(pipeline, number, known)
        with self._lock:
            self._held[pipeline.pipeline] = held
        sources = held.lakes if isinstance(held, Owned) else {}
        for source, lake in sources.items():
            self._added(pipeline, source, lake)
        for source in set(known.lakes if isinstance(known, Owned) else ()) - set(sources):
            self._removed(pipeline.pipeline, source)
        if known:
            known.close()

    def _opened(self, pipeline: Pipeline, number: int, known: Held | None) -> Held:
        folder = self._folder / pipeline.pipeline
        if not self._owning:
            return Held(pipeline, number, self._stores.open(folder, pipeline))
        Repository(folder, self._lake.root / pipeline.pipeline, self._stores).apply(pipeline)
        reader, writer = (self._stores.open(folder, pipeline) for _ in range(2))
        lakes = {source: self._lake.source(pipeline.pipeline, source) for source in pipeline.sources}
        owned = Owned(
            pipeline, number, lakes, reader, writer, known.gate if isinstance(known, Owned) else Gate()
        )
        if isinstance(known, Owned):
            owned.online = known.online
        return owned

    def all(self) -> list[Owned]:
        with self._lock:
            return [held for held in self._held.values() if isinstance(held, Owned)]

    def owned(self, name: str) -> Owned:
        """Raises NotFound and Unavailable like `get`, and Unavailable where this replica does not
        own the lake.
        """
        held = self.get(name)
        if not isinstance(held, Owned):
            raise Unavailable("this replica is taking the lake over", where=name, remedy="Try again")
        return held

    def get(self, name: str) -> Held:
        """Raises NotFound that names the nearest; Unavailable while not all pipelines have been read."""
        with self._lock:
            held = self._held.get(name)
        if held is None:
            raise self.applied.missing(name)
        return held

    async def wait(self, name: str, number: int, timeout_s: float) -> tuple[Pipeline, int]:
        """The pipeline as it was applied under this number, and the number; 0 asks for the newest.

        Waits for a number that has not reached us yet. Raises NotFound, and Unavailable when it did not come.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._newest(name) >= number)
        if number > self._newest(name):
            raise Unavailable(
                f"{name} number {number} has not reached the feature store",
                where=name,
                remedy="Try again, or see `penstock status`",
            )
        newest = self.get(name)
        if number in (0, newest.number):
            return newest.pipeline, newest.number
        first = select(func.min(PipelineRow.number)).where(PipelineRow.name == name)
        row, oldest = await self._store.read(
            lambda session: (session.get(PipelineRow, (name, number)), session.scalar(first))
        )
        if row is None:
            raise NotFound(
                f"{name} has no number {number} here",
                where=name,
                remedy=f"Use one from {oldest} to {newest.number}",
            )
        return row.spec, number

    def _newest(self, name: str) -> int:
        with self._lock:
            return self._held[name].number if name in self._held else 0

    def close(self) -> None:
        for held in self._held.values():
            held.close()
