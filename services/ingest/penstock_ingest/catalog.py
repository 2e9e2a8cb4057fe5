"""The sources that this replica takes events of: one `Intake` each, from the pipelines as they were
last applied.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import structlog

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock_ingest.intake import Intake

log = structlog.get_logger(__name__)


class Catalog:
    """Safe from any thread."""

    def __init__(
        self,
        make: Callable[[Pipeline, str], Intake],
        *,
        added: Callable[[Intake], None],
        removed: Callable[[Intake], None],
    ) -> None:
        self._make = make
        self._added = added
        self._removed = removed
        self._lock = threading.Lock()
        self._intakes: dict[tuple[str, str], Intake] = {}
        self._complete = False

    def apply(self, pipeline: Pipeline, number: int) -> None:
        """A new source is read from its first event on; a changed one goes by its new rules from
        the next batch on.
        """
        with self._lock:
            for source in pipeline.sources:
                key = pipeline.pipeline, source
                if intake := self._intakes.get(key):
                    intake.follow(pipeline)
                else:
                    intake = self._intakes[key] = self._make(pipeline, source)
                    self._added(intake)
            for key in [
                key for key in self._intakes if key[0] == pipeline.pipeline and key[1] not in pipeline.sources
            ]:
                self._removed(self._intakes.pop(key))
        log.info(
            "pipeline_followed", pipeline=pipeline.pipeline, number=number, sources=list(pipeline.sources)
        )

    def complete(self) -> None:
        """All pipelines of the past were told: what is not here does not exist."""
        self._complete = True

    @property
    def intakes(self) -> Collection[Intake]:
        with self._lock:
            return list(self._intakes.values())

    @property
    def pipelines(self) -> int:
        return len({intake.pipeline for intake in self.intakes})

    def find(self, pipeline: str, source: str) -> Intake:
        """Raises NotFound that names what there is, Unavailable while not everything is known."""
        with self._lock:
            if found := self._intakes.get((pipeline, source)):
                return found
            sources = sorted(source for name, source in self._intakes if name == pipeline)
            pipelines = sorted({name for name, _ in self._intakes})
        if not self._complete:
            raise Unavailable(
                "this replica of ingest has just started and still reads the pipelines", remedy="Try again"
            )
        if sources:
            raise NotFound(
                f"pipeline {pipeline} has no source `{source}`", remedy=f"It has {', '.join(sources)}"
            )
        raise NotFound(
            f"no pipeline `{pipeline}`",
            remedy=f"There is {', '.join(pipelines)}" if pipelines else "Apply one first",
        )
