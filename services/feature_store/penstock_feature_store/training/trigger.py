"""`training.trigger.new_labels`: a run for every so many labels.

Labels are counted by their place in the lake, not by a counter: those at or after the position up
to which an earlier training set or request took them are new. Request and position are one
transaction, so no label counts twice and none is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog
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

    def look(self) -> list[str]:
        """Requests what is due; the run ids. Blocking."""
        found = []
        for held in self._pipelines.all():
            if held.pipeline.training.trigger:
                with self._store.transaction() as effect:
                    if run := self._request(held, effect):
                        found.append(run)
        return found

    def _request(self, held: Owned, effect: Effect) -> str | None:
        pipeline = held.pipeline
        if pipeline.training.trigger is None:
            return None
        source, column = place_of(pipeline)
        known = counted(effect.session, pipeline.pipeline, source)
        labels, positions = held.lakes[source].count_here(column, since=known)
        if not due(
            labels, pipeline.training.trigger.new_labels, runs_under_way(effect.session, pipeline.pipeline)
        ):
            return None
        run_id = str(ULID())
        count_up_to(effect.session, pipeline.pipeline, source, positions)
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
