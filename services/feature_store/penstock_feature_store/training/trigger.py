"""`training.trigger.new_labels`: a run for every so many labels.

Labels are counted by their place in the lake, not by a counter: those at or after the position up
to which an earlier training set or request took them are new. Request and position are one
transaction, so no label counts twice and none is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts.events import TrainingRunRequested
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.store import Effect, Store
from penstock.runtime.telemetry import span
from penstock_feature_store import names
from penstock_feature_store.pipelines import Owned, Pipelines
from penstock_feature_store.store import begin_run, count_up_to, counted, runs_under_way

log = structlog.get_logger(__name__)

REQUESTED_BY = "feature_store"


def due(new_labels: int, threshold: int, runs: int) -> bool:
    """Labels that arrive during a run count for the next: no request while one is under way."""
    return runs == 0 and new_labels >= threshold


def place_of(pipeline: Pipeline) -> tuple[str, str]:
    """(source, column) of the labels."""
    source, _, field = pipeline.target.source_field.partition(".")
    return source, names.column_of(field)


class Trigger:
    def __init__(self, store: Store, pipelines: Pipelines, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._pipelines = pipelines
        self._clock = clock

    async def look(self) -> list[str]:
        """Requests what is due; the run ids."""
        looked = [await self._look(held) for held in self._pipelines.all()]
        return [run for run in looked if run]

    async def _look(self, held: Owned) -> str | None:
        pipeline, trigger = held.pipeline, held.pipeline.training.trigger
        if trigger is None:
            return None
        source, column = place_of(pipeline)

        def so_far(session: Session) -> tuple[dict[int, int], int]:
            return counted(session, pipeline.pipeline, source), runs_under_way(session, pipeline.pipeline)

        known, runs = await self._store.read(so_far)
        labels, positions = await asyncio.to_thread(held.lakes[source].count_here, column, since=known)
        if not due(labels, trigger.new_labels, runs):
            return None

        def request(effect: Effect) -> str | None:
            if so_far(effect.session) != (known, runs):
                return None  # a run or a training set has begun meanwhile: the next look counts again
            return self._request(held, labels, positions, effect)

        return await self._store.write(request)

    def _request(self, held: Owned, labels: int, positions: Mapping[int, int], effect: Effect) -> str:
        pipeline, run_id = held.pipeline, str(ULID())
        count_up_to(effect.session, pipeline.pipeline, place_of(pipeline)[0], positions)
        begin_run(effect.session, run_id, pipeline.pipeline)
        with span(
            "request training", pipeline=pipeline.pipeline
        ):  # where a run's trace begins that nobody asked for
            effect.publish(
                TrainingRunRequested(
                    run_id=run_id,
                    pipeline=pipeline.pipeline,
                    pipeline_number=held.number,
                    reason="new_labels",
                    requested_at=self._clock(),
                    requested_by=REQUESTED_BY,
                )
            )
            log.info("training_requested", pipeline=pipeline.pipeline, run_id=run_id, new_labels=labels)
        return run_id
