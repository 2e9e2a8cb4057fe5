"""The Kafka topics of a pipeline: made before the pipeline is announced, and asked whether anybody published to them. Blocking."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, source_topic
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.topics import ensure_topics

TIMEOUT_S = 5.0


class PipelineTopics:
    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def ensure(self, pipeline: Pipeline) -> None:
        """Makes what is missing. Raises Unavailable while Kafka is away."""
        self._admin()  # says within seconds that nobody is there
        ensure_topics(self._kafka, pipeline_topics(pipeline))

    def with_data(self, pipeline: Pipeline) -> frozenset[str]:
        """The sources that events were ever published to, expired ones included. Raises Unavailable while Kafka is away."""
        topics = {self._kafka.topic(source_topic("events", pipeline.pipeline, source)): source for source in pipeline.sources}
        admin = self._admin()
        try:
            known = admin.list_topics(timeout=TIMEOUT_S).topics
            ends = {
                TopicPartition(topic, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]
                for topic in topics
                if topic in known
                for partition in known[topic].partitions
            }
            answers = admin.list_offsets(ends, request_timeout=TIMEOUT_S) if ends else {}
            return frozenset(topics[place.topic] for place, answer in answers.items() if answer.result().offset > 0)
        except KafkaException as error:
            raise self._away(error) from error

    def _admin(self) -> AdminClient:
        """A client that has reached Kafka. Raises Unavailable."""
        admin = AdminClient(self._kafka.client(), logger=logging.getLogger(__name__))
        try:
            admin.list_topics(timeout=TIMEOUT_S)
        except KafkaException as error:
            raise self._away(error) from error
        return admin

    def _away(self, error: KafkaException) -> Unavailable:
        return Unavailable(f"Kafka at {self._kafka.bootstrap_servers} does not answer: {error}", remedy="Start it, and try again")
