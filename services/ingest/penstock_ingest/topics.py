"""The topics of a pipeline's sources."""

from __future__ import annotations

import asyncio

import structlog

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

RETRY_S = 1.0


async def ensure(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """Makes what is missing, before anything subscribes to it. Waits while Kafka is away."""
    own = [topic for topic in pipeline_topics(pipeline) if topic.owner in ("users", "ingest")]
    while True:
        try:
            await asyncio.to_thread(ensure_topics, kafka, own)
        except Unavailable as error:
            log.warning("topics_not_made", pipeline=pipeline.pipeline, error=str(error))
            await asyncio.sleep(RETRY_S)
        else:
            return
