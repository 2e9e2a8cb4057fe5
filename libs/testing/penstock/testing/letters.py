"""Reads dead letters as a user of Kafka sees them."""

from __future__ import annotations

from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings


def letters(kafka: KafkaSettings, topic: str) -> list[Received]:
    """Reads a topic of dead letters whole; none where there is no such topic."""
    with Reader(kafka, "test") as reader:
        for where in reader.partitions(topic):
            first, end = reader.ends(where)
            found = reader.span(where, first, end, lambda _: False) if first < end else []
            return [receive(message, kafka.topic_prefix) for message in found]
    return []
