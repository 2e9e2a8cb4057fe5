"""Counts and profiles of all partitions, whichever replica answers: read from where the
transactions wrote them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from confluent_kafka import Consumer, KafkaException, TopicPartition

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import source_topic
from penstock.runtime.kafka.group import librdkafka_log
from penstock.runtime.settings import KafkaSettings
from penstock_ingest.counts import Counts, decode_counts
from penstock_ingest.history import History
from penstock_ingest.profile import Profile, add

CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class Standing:
    """One events partition as of the last committed transaction."""

    position: int
    """The next offset to read."""
    lag: int
    counts: Counts


class Ledger:
    """Blocking, and safe from any thread. Every method raises Unavailable while Kafka is away."""

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None

    def standings(self, pipeline: str, source: str) -> Mapping[int, Standing]:
        topic = self._kafka.topic(source_topic("events", pipeline, source))
        try:
            with self._lock:
                consumer = self._open()
                found = consumer.list_topics(topic, CALL_S).topics[topic]
                if found.error is not None:
                    raise KafkaException(found.error)
                places = [TopicPartition(topic, number) for number in sorted(found.partitions)]
                return {
                    place.partition: self._standing(consumer, place)
                    for place in consumer.committed(places, CALL_S)
                }
        except KafkaException as error:
            raise Unavailable(
                f"{topic} cannot be asked for: {error.args[0].str()}", remedy="Try again when Kafka is back"
            ) from error

    def profile(self, pipeline: str, source: str) -> Profile:
        history = History(self._kafka, source_topic("seen", pipeline, source))
        standings = self.standings(pipeline, source)
        return reduce(
            add,
            (history.profile(number, records=one.counts.records) for number, one in standings.items()),
            {},
        )

    def close(self) -> None:
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _open(self) -> Consumer:
        """Asks in the group's name without being a member. Kept: a new connection costs more than
        the question.
        """
        if self._consumer is None:
            group = self._kafka.topic(self._group)
            settings = self._kafka.client(
                group_id=group, isolation_level="read_committed", enable_auto_commit=False
            )
            self._consumer = Consumer(settings, logger=librdkafka_log)
        return self._consumer

    def _standing(self, consumer: Consumer, committed: TopicPartition) -> Standing:
        low, high = consumer.get_watermark_offsets(committed, CALL_S)
        position = committed.offset if committed.offset >= 0 else low
        return Standing(position, max(0, high - position), decode_counts(committed.metadata or ""))
