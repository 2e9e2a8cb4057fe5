"""Kafka in, control plane: the pipelines as they were last applied. Kept in memory, read whole at
each start.
"""

from __future__ import annotations

import asyncio

import structlog

from penstock.contracts.errors import Unavailable
from penstock.contracts.events import PipelineApplied
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics
from penstock.runtime.broker import Router
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock_ingest.catalog import Catalog

log = structlog.get_logger(__name__)

GROUP = "penstock.ingest"
RETRY_S = 1.0


def router(catalog: Catalog, kafka: KafkaSettings) -> Router:
    router = Router(group=GROUP)

    @router.on_replay(PipelineApplied)
    async def on_pipeline_applied(event: PipelineApplied) -> None:
        pipeline = Pipeline.model_validate(event.spec)
        await _ensure(kafka, pipeline)
        catalog.apply(pipeline, event.number)

    return router


async def _ensure(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """The source's topics, before anything subscribes to them."""
    own = [topic for topic in pipeline_topics(pipeline) if topic.owner in ("users", "ingest")]
    while True:
        try:
            await asyncio.to_thread(ensure_topics, kafka, own)
        except Unavailable as error:
            log.warning("topics_not_made", pipeline=pipeline.pipeline, error=str(error))
            await asyncio.sleep(RETRY_S)
        else:
            return
