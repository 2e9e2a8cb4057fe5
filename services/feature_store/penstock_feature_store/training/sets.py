"""Training sets by the caller's id: built once, given again."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from penstock.contracts import metrics
from penstock.contracts.errors import Conflict, Invalid, NotFound
from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.packages.facts import signed
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.database import persistently
from penstock.runtime.metrics import histogram
from penstock.runtime.store import Effect, Store
from penstock.runtime.telemetry import span
from penstock_feature_store.pipelines import Owned
from penstock_feature_store.store import Labels, TrainingSetRow, keep_training_set
from penstock_feature_store.training.columns import source_of
from penstock_feature_store.training.join import Order, manifest_key
from penstock_feature_store.training.spawner import Spawner

log = structlog.get_logger(__name__)
_DURATION = histogram(metrics.TRAINING_SETS)

WORK = "penstock_feature_store.training.join:build_json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class TrainingSets:
    """Makes training sets, one an id, and gives them again. Used from the event loop."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        spawner: Spawner,
        folder: Path,
        keys: Keys,
        clock: Callable[[], datetime],
    ) -> None:
        """`folder`: scratch, one folder a set that is being built."""
        self._store = store
        self._artifacts = artifacts
        self._spawner = spawner
        self._folder = folder
        self._keys = keys
        self._clock = clock
        self._building: dict[str, asyncio.Task[TrainingSet]] = {}

    async def forget_unfinished(self) -> None:
        """Removes what a crash left half built, before any is built."""
        for begun in self._folder.iterdir() if self._folder.exists() else ():
            await self._forget(begun.name)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def known(self, training_set: str, pipeline: str, number: int) -> TrainingSet | None:
        """Returns the set made for this id before, else None. Raises Conflict where it was made for
        another pipeline, Invalid where the text cannot be an id.
        """
        if not _ID.fullmatch(training_set):
            raise Invalid(
                f"`{training_set}` cannot name a training set",
                where="id",
                remedy="Use up to 64 letters, digits, `-`, `_`, `.`",
            )
        row = await self._store.read(lambda session: session.get(TrainingSetRow, training_set))
        if row is None:
            return None
        if row.pipeline != pipeline or number not in (0, row.number):
            raise Conflict(
                f"{training_set} was made of {row.pipeline} number {row.number}",
                where="id",
                remedy="Choose another id",
            )
        return row.body if row.body.evidence else self._signed(row.body)  # of a release that signed none

    async def create(self, training_set: str, held: Owned, pipeline: Pipeline, number: int) -> TrainingSet:
        """Goes on when the caller does not wait for it; who asks again gets the same."""
        if training_set not in self._building:
            task = asyncio.create_task(self._create(training_set, held, pipeline, number))
            self._building[training_set] = task
            task.add_done_callback(partial(self._built, training_set, pipeline, time.perf_counter()))
        return await asyncio.shield(self._building[training_set])

    async def _create(self, training_set: str, held: Owned, pipeline: Pipeline, number: int) -> TrainingSet:
        folder = self._folder / training_set
        started = self._clock()
        with span("create training set", pipeline=pipeline.pipeline):
            async with held.gate.shared():
                if held.gone:
                    raise NotFound(f"pipeline `{pipeline.pipeline}` was deleted")
                if known := await self.known(training_set, pipeline.pipeline, number):
                    return known
                try:
                    positions = await asyncio.to_thread(self._link, held, pipeline, folder)
                    order = Order(
                        id=training_set,
                        pipeline=pipeline,
                        folder=folder,
                        artifacts=self._artifacts.root,
                        created_at=started,
                    )
                    built = await self._spawner.run(WORK, order.model_dump(mode="json", by_alias=True))
                    made = self._signed(TrainingSet.model_validate(built))
                    await persistently(
                        lambda: self._keep(
                            training_set, made, number, source_of(pipeline.target.source_field), positions
                        )
                    )
                except BaseException:
                    await persistently(lambda: self._forget(training_set))
                    raise
                finally:
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        log.info(
            "training_set_created",
            pipeline=made.pipeline,
            id=training_set,
            rows=made.rows,
            fingerprint=made.fingerprint,
            took_s=round((self._clock() - started).total_seconds(), 2),
        )
        return made

    def _signed(self, made: TrainingSet) -> TrainingSet:
        return signed(made, self._keys.signer("feature_store"))

    def _built(
        self, training_set: str, pipeline: Pipeline, began: float, done: asyncio.Task[TrainingSet]
    ) -> None:
        del self._building[training_set]
        error = None if done.cancelled() else done.exception()
        outcome = "refused" if error or done.cancelled() else "created"
        _DURATION.record(time.perf_counter() - began, {"pipeline": pipeline.pipeline, "outcome": outcome})
        if error:
            log.info("training_set_refused", id=training_set, why=str(error))

    def _link(self, held: Owned, pipeline: Pipeline, folder: Path) -> dict[int, int]:
        """The lake as it is now; and up to where that is, for the source of the labels."""
        shutil.rmtree(folder, ignore_errors=True)
        positions = {
            source: held.lakes[source].link(folder / "lake" / source)
            for source in pipeline.sources
            if source in held.lakes
        }
        return positions.get(source_of(pipeline.target.source_field), {})

    async def _forget(self, training_set: str) -> None:
        """Parts that no row knows: an erasure would not find them."""
        # In the writers' order: the transaction that keeps the set may be under way.
        if await self._store.write(lambda effect: effect.session.get(TrainingSetRow, training_set)) is None:
            await asyncio.to_thread(self._artifacts.delete, f"training-sets/{training_set}")

    async def _keep(
        self, training_set: str, made: TrainingSet, number: int, source: str, positions: dict[int, int]
    ) -> None:
        def keep(effect: Effect) -> None:
            row = TrainingSetRow(
                id=training_set,
                pipeline=made.pipeline,
                number=number,
                body=made,
                created_at=made.created_at,
                labels=Labels(source=source, positions=positions),
            )
            keep_training_set(effect.session, row)

        manifest = made.model_dump_json(indent=2).encode()
        await asyncio.to_thread(self._artifacts.put_bytes, manifest_key(training_set), manifest)
        await self._store.write(keep)
