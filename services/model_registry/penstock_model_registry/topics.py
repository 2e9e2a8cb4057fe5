"""The Kafka topics of a pipeline: made before the pipeline is announced, and asked whether anybody published to them. Blocking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, source_topic
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.topics import ensure_topics

TIMEOUT_MS = 5_000


class PipelineTopics:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def ensure(self, pipeline: Pipeline) -> None:
        """Makes what is missing. Raises Unavailable while Kafka is away."""
        with self._admin():  # says within seconds that nobody is there
            ensure_topics(self._kafka, pipeline_topics(pipeline))

    def with_data(self, pipeline: Pipeline) -> frozenset[str]:
        """The sources that events were ever published to, expired ones included. Raises Unavailable while Kafka is away."""
        topics = {self._kafka.topic(source_topic("events", pipeline.pipeline, source)): source for source in pipeline.sources}
        with self._admin() as admin:
            ends = {
                TopicPartition(known["name"], partition["partition_index"]): OffsetSpec.LATEST
                for known in admin.describe_topics(list(topics))
                for partition in known["partitions"]
            }
            found = admin.list_partition_offsets(ends) if ends else {}
        return frozenset(topics[place.topic] for place, end in found.items() if end.offset > 0)

    @contextmanager
    def _admin(self) -> Iterator[KafkaAdminClient]:
        """A client that has reached Kafka. Raises Unavailable, also for what fails inside."""
        limits = {"bootstrap_timeout_ms": TIMEOUT_MS, "request_timeout_ms": TIMEOUT_MS, "client_id": "penstock-pipelines"}
        try:
            with closing(KafkaAdminClient(**self._kafka.admin(), **limits)) as admin:
                yield admin
        except (KafkaError, ValueError, OSError) as error:
            raise Unavailable(
                f"Kafka at {self._kafka.bootstrap_servers} does not answer: {error}", remedy="Start it, and try again"
            ) from error
