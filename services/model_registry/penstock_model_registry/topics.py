"""The Kafka topics of a pipeline: made before the pipeline is announced, and asked whether anybody
published to them. Blocking.
"""

from __future__ import annotations

from contextlib import closing

from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, source_topic
from penstock.runtime.kafka.admin import connect, ensure_topics
from penstock.runtime.settings import KafkaSettings

TIMEOUT_MS = 5_000


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
        topics = {
            self._kafka.topic(source_topic("events", pipeline.pipeline, source)): source
            for source in pipeline.sources
        }
        with closing(
            connect(self._kafka, "penstock-pipelines", within_ms=TIMEOUT_MS, answer_ms=TIMEOUT_MS)
        ) as admin:
            try:
                ends = {
                    TopicPartition(known["name"], partition["partition_index"]): OffsetSpec.LATEST
                    for known in admin.describe_topics(list(topics))
                    for partition in known["partitions"]
                }
                found = admin.list_partition_offsets(ends) if ends else {}
            except (KafkaError, OSError) as error:
                raise Unavailable(
                    f"Kafka at {self._kafka.bootstrap_servers} does not answer: {error}",
                    remedy="Start it, and try again",
                ) from error
        return frozenset(topics[place.topic] for place, end in found.items() if end.offset > 0)
