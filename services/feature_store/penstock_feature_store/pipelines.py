"""The pipelines as they were applied: each number for training sets, the newest with its lake and
its Feast repository.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog
from confluent_kafka import KafkaException
from sqlalchemy import func, select

from penstock.contracts.errors import Invalid, NotFound, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.packages.keys import Keys
from penstock.runtime.pipelines import Applied, AppliedPipelines, nearest
from penstock.runtime.store import Store
from penstock_feature_store.deletion import Deletion
from penstock_feature_store.lake.lake import Lake, SourceLake
from penstock_feature_store.lake.records import Records
from penstock_feature_store.online.repository import apply
from penstock_feature_store.online.selection import Selection
from penstock_feature_store.online.stores import OnlineStore, OnlineStores
from penstock_feature_store.store import PipelineRow, keep_pipeline, newest_pipelines

log = structlog.get_logger(__name__)

GROUP = "penstock.feature_store"
_SELECTIONS = 64  # kept of a pipeline

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def apart(work: str, **about: str) -> Iterator[None]:
    """Work for one pipeline or source, in a loop over many: what it raises is logged, and the next has
    its turn. What says that a peer is away is raised.
    """
    try:
        yield
    except (Unavailable, KafkaException):
        raise
    except Exception:
        log.exception("left_for_later", work=work, **about)


class Gate:
    """Training sets are built side by side, an erasure alone: none may be made of rows that are
    about to leave. `online` is held while rows go from the lake to the online store, and by an
    erasure.
    """

    def __init__(self) -> None:
        self.online = threading.Lock()
        self._door = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._door:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:
            await self._empty.wait()
            yield


@dataclass(eq=False)
class Held:
    """A pipeline as it was last applied, to be read online."""

    pipeline: Pipeline
    number: int
    reader: OnlineStore

    def close(self) -> None:
        self.reader.close()

    @cached_property
    def features(self) -> Sequence[str]:
        """`source.field` of each of the pipeline's features."""
        return tuple(feature.source_field for feature in self.pipeline.resolved_features().values())

    @cached_property
    def references(self) -> Mapping[str, tuple[str, str]]:
        """(source, field) by `source.field`."""
        sources = self.pipeline.sources
        return {f"{name}.{field}": (name, field) for name in sources for field in sources[name].fields}

    def reference(self, reference: str) -> tuple[str, str]:
        """(source, field) of `source.field`. Raises Invalid that names the nearest."""
        if known := self.references.get(reference):
            return known
        raise Invalid(
            f"no field `{reference}`",
            where=self.pipeline.pipeline,
            remedy=nearest(reference, list(self.references)),
        )

    def selection(self, fields: Sequence[str]) -> Selection:
        """Gives the way in which these fields (`source.field`) are answered; it is kept for the next who
        asks for them. Raises Invalid.
        """
        known = self._selections.get(asked := tuple(fields))
        if known is None:
            known = Selection([self.reference(field) for field in asked], self.reader.packings)
            if len(asked) <= len(self.references) and len(self._selections) < _SELECTIONS:
                self._selections[asked] = known
        return known

    @cached_property
    def _selections(self) -> dict[tuple[str, ...], Selection]:
        return {}


@dataclass(eq=False)
class Owned(Held):
    """A pipeline with its data, where this replica owns the lake."""

    lakes: Mapping[str, SourceLake]
    writer: OnlineStore
    gate: Gate
    gone: bool = False  # it was deleted: whoever still has this object at hand writes nothing

    async def alone(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """`work`, blocking, while no training set is built and nothing is written online."""

        def locked() -> T:
            with self.gate.online:
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
        records: Records,
        keys: Keys,
        deletion: Deletion,
    ) -> None:
        """`folder`: for Feast repositories. `records`: follows each source of the lake, once it is
        owned.
        """
        self._store = store
        self._lake = lake
        self._stores = stores
        self._folder = folder
        self._records = records
        self._deletion = deletion
        self._deleted: dict[str, int] = {}  # not yet removed: the lake is another's, or a store is away
        self._applying = threading.Lock()
        self._owning = False
        self._held: Mapping[str, Held] = {}  # replaced by another, so it is read without a lock
        self._changed = asyncio.Condition()
        self.applied = AppliedPipelines(GROUP, keys, follow=self._apply, forget=self._forget)

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
            self._remove_deleted()
            for held in self._held.values():
                with apart("follow", pipeline=held.pipeline.pipeline):
                    self._follow(held.pipeline, held.number)

    def delete_again(self) -> None:
        """Removes what could not be removed while a store was away, and then follows what was applied
        anew under such a name. Blocking.
        """
        with self._applying:
            for name in self._remove_deleted():
                if held := self._held.get(name):
                    self._follow(held.pipeline, held.number)

    def _remove_deleted(self) -> list[str]:
        """Returns the names of which nothing is left."""
        before = self._deleted
        self._deleted = {}
        for name, number in before.items():
            try:
                with apart("deletion", pipeline=name):
                    self._deletion.remove(name, number)
            except Unavailable as error:
                self._deleted[name] = number
                log.warning("deletion_waits", pipeline=name, why=str(error))
        return [name for name in before if name not in self._deleted]

    async def _apply(self, new: Applied, _old: Applied | None) -> None:
        pipeline, number = new.pipeline, new.number
        await self._store.write(lambda effect: keep_pipeline(effect.session, pipeline, number))
        await asyncio.to_thread(self._open, pipeline, number)
        async with self._changed:
            self._changed.notify_all()

    async def _forget(self, name: str, number: int) -> None:
        """Removes a deleted pipeline's data, where this replica owns the lake or once it does."""
        held = self._held.get(name)
        if held and held.number > number:  # applied anew
            return
        if isinstance(held, Owned):
            for source in held.lakes:
                await asyncio.to_thread(self._records.remove, name, source)
            held.gone = True
            await held.alone(self._drop, name, number)
        else:
            await asyncio.to_thread(self._drop, name, number)
        async with self._changed:
            self._changed.notify_all()

    def _drop(self, name: str, number: int) -> None:
        with self._applying:
            held = self._held.get(name)
            self._held = {known: one for known, one in self._held.items() if known != name}
            if held:
                held.close()
            if self._owning:
                self._deletion.remove(name, number)
            else:
                self._deleted[name] = number

    def _open(self, pipeline: Pipeline, number: int) -> None:
        with self._applying:
            if self._newest(pipeline.pipeline) < number:
                self._follow(pipeline, number)

    def _follow(self, pipeline: Pipeline, number: int) -> None:
        """Opens the pipeline in place of its last number, with its data where the lake is owned and holds
        none of a deleted one.
        """
        name = pipeline.pipeline
        known = self._held.get(name)
        folder = self._folder / name
        if not self._owning or name in self._deleted:
            held = Held(pipeline, number, self._stores.open(folder, pipeline))
            self._held = {**self._held, name: held}
        else:
            apply(pipeline, folder, self._lake.root / name, self._stores)
            reader, writer = (self._stores.open(folder, pipeline) for _ in range(2))
            lakes = {source: self._lake.source(name, source) for source in pipeline.sources}
            before = known if isinstance(known, Owned) else None
            owned = Owned(pipeline, number, reader, lakes, writer, before.gate if before else Gate())
            self._held = {**self._held, name: owned}
            for source, lake in lakes.items():
                self._records.add(pipeline, source, lake)
            for source in set(before.lakes if before else ()) - set(lakes):
                self._records.remove(name, source)
        if known:
            known.close()

    def all(self) -> list[Owned]:
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
        held = self._held.get(name)
        if held is None:
            raise self.applied.missing(name)
        return held

    async def wait(self, name: str, number: int, timeout_s: float) -> tuple[Pipeline, int]:
        """The pipeline as it was applied under this number, and the number; 0 asks for the newest.

        Waits for a number that has not reached us yet. Raises NotFound, and Unavailable when it did not come.
        """
        with suppress(TimeoutError):
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
        held = self._held.get(name)
        return held.number if held else 0

    def close(self) -> None:
        for held in self._held.values():
            held.close()
