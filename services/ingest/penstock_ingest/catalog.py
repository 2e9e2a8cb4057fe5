"""The sources that this replica takes events of: one `Intake` each, from the pipelines as they were
last applied.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection
from functools import partial

import structlog

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics
from penstock.packages.keys import Keys
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.pipelines import Applied, AppliedPipelines
from penstock.runtime.settings import KafkaSettings
from penstock_ingest.intake import Intake

log = structlog.get_logger(__name__)

GROUP = "penstock.ingest"
RETRY_S = 1.0


class Catalog:
    """Safe from any thread."""

    def __init__(
        self,
        make: Callable[[Pipeline, str], Intake],
        keys: Keys,
        *,
        prepare: Callable[[Pipeline, Callable[[], bool]], Awaitable[None]],
        added: Callable[[Intake], None],
        removed: Callable[[Intake], None],
    ) -> None:
        """`prepare` returns when a pipeline's events can be read, or it is told that they never will."""
        self.applied = AppliedPipelines(GROUP, keys, follow=self._follow, forget=self._forget)
        self._make = make
        self._prepare = prepare
        self._added = added
        self._removed = removed
        self._lock = threading.Lock()
        self._intakes: dict[tuple[str, str], Intake] = {}

    @property
    def intakes(self) -> Collection[Intake]:
        with self._lock:
            return list(self._intakes.values())

    def find(self, pipeline: str, source: str) -> Intake:
        """Raises NotFound that names what there is, Unavailable while not everything is known."""
        self.applied.get(pipeline)
        with self._lock:
            if found := self._intakes.get((pipeline, source)):
                return found
            sources = sorted(source for name, source in self._intakes if name == pipeline)
        raise NotFound(f"pipeline {pipeline} has no source `{source}`", remedy=f"It has {', '.join(sources)}")

    async def _follow(self, new: Applied, _old: Applied | None) -> None:
        # A new source is read from its first event on; a changed one goes by its new rules from the
        # next batch on.
        pipeline = new.pipeline
        deleted = partial(self.applied.ends, pipeline.pipeline, new.number)
        await self._prepare(pipeline, deleted)
        if deleted():
            return
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

    def _forget(self, name: str, _number: int) -> None:
        with self._lock:
            for key in [key for key in self._intakes if key[0] == name]:
                self._removed(self._intakes.pop(key))


async def ensure_source_topics(kafka: KafkaSettings, pipeline: Pipeline, deleted: Callable[[], bool]) -> None:
    """Makes the topics of a pipeline's sources that are missing, before anything subscribes to
    them. Waits while Kafka is away, and no longer than until the pipeline is deleted: its topics are
    gone, and who may make none would wait for ever.
    """
    own = [topic for topic in pipeline_topics(pipeline) if topic.owner in ("users", "ingest")]
    while not deleted():
        try:
            await asyncio.to_thread(ensure_topics, kafka, own)
            return
        except Unavailable as error:
            log.warning("topics_not_made", pipeline=pipeline.pipeline, error=str(error))
            await asyncio.sleep(RETRY_S)
