"""`training.trigger.new_labels`: a run for every so many labels.

Labels are counted by their place in the lake, not by a counter: those at or after the position up
to which an earlier run's training set or request took them are new. Request and position are one
transaction, so no label counts twice and none is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.orm import Session
from ulid import ULID

from penstock.contracts.events import TrainingRunRequested
from penstock.runtime.store import Effect, Store
from penstock.runtime.telemetry import span
from penstock_feature_store.pipelines import Owned
from penstock_feature_store.store import begin_run, count_up_to, counted, runs_under_way
from penstock_feature_store.training.columns import place_of

log = structlog.get_logger(__name__)


def due(new_labels: int, threshold: int, runs: int) -> bool:
    """Labels that arrive during a run count for the next: no request while one is under way."""
    return runs == 0 and new_labels >= threshold


async def request_if_due(store: Store, held: Owned, clock: Callable[[], datetime]) -> None:
    """Requests a run where enough labels have come since the last one."""
    pipeline, trigger = held.pipeline, held.pipeline.training.trigger
    if trigger is None:
        return
    source, column = place_of(pipeline.target.source_field)

    def so_far(session: Session) -> tuple[dict[int, int], int]:
        return counted(session, pipeline.pipeline, source), runs_under_way(session, pipeline.pipeline)

    known, runs = await store.read(so_far)
    labels, positions = await asyncio.to_thread(held.lakes[source].count_here, column, since=known)
    if not due(labels, trigger.new_labels, runs):
        return
    request = TrainingRunRequested(
        run_id=str(ULID()),
        pipeline=pipeline.pipeline,
        pipeline_number=held.number,
        reason="new_labels",
        requested_at=clock(),
        requested_by="feature_store",
    )

    def publish(effect: Effect) -> None:
        if so_far(effect.session) != (known, runs):
            return  # a run or a training set has begun meanwhile: the next look counts again
        count_up_to(effect.session, pipeline.pipeline, source, positions)
        begin_run(effect.session, request.run_id, pipeline.pipeline)
        with span(
            "request training", pipeline=pipeline.pipeline
        ):  # a run's trace begins that nobody asked for
            effect.publish(request)
            log.info(
                "training_requested", pipeline=pipeline.pipeline, run_id=request.run_id, new_labels=labels
            )

    await store.write(publish)
