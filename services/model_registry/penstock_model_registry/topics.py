"""The Kafka topics of a pipeline: made before the pipeline is announced, and asked whether anybody
published to them. Blocking.
"""

from __future__ import annotations

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, source_topic
from penstock.runtime.kafka.admin import end_offsets, ensure_topics
from penstock.runtime.settings import KafkaSettings


class PipelineTopics:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def ensure(self, pipeline: Pipeline) -> None:
        """Makes what is missing. Raises Unavailable while Kafka is away."""
        ensure_topics(self._kafka, pipeline_topics(pipeline))

    def with_data(self, pipeline: Pipeline) -> frozenset[str]:
        """The sources that events were ever published to, expired ones included. Raises Unavailable
        while Kafka is away.
        """
        topics = {source_topic("events", pipeline.pipeline, source): source for source in pipeline.sources}
        ends = end_offsets(self._kafka, topics)
        return frozenset(topics[partition.topic] for partition, end in ends.items() if end > 0)
