"""Counts and profiles of all partitions, whichever replica answers: read from where the
transactions wrote them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import source_topic
from penstock.runtime.kafka.messages import Committed, Partition
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock_ingest.counts import Counts, decode_counts
from penstock_ingest.history import History
from penstock_ingest.profile import Profile, add

ANSWER_S = 5.0  # seconds that one answer of Kafka's is waited for; a call of somebody's waits meanwhile


@dataclass(frozen=True, slots=True)
class Standing:
    """An events partition as of the last committed transaction."""

    position: int  # next offset to read
    lag: int
    counts: Counts


class Ledger:
    """Blocking, and safe from any thread. Every method raises Unavailable while Kafka is away."""

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._kafka = kafka
        self._lock = threading.Lock()
        # One client for all questions: a new connection costs more than the question.
        self._connect = partial(Reader, kafka, group, within_s=ANSWER_S)
        self._reader = self._connect()

    def standings(self, pipeline: str, source: str) -> Mapping[int, Standing]:
        topic = source_topic("events", pipeline, source)
        with self._lock:
            try:
                places = self._reader.partitions(topic)
                standings = {
                    where.number: _standing(self._reader, where, committed)
                    for where, committed in self._reader.committed(places).items()
                }
            except Unavailable:
                self._reader.close()  # Kafka may answer another client, see runtime/kafka/recovery.py
                self._reader = self._connect()
                raise
        if not standings:
            raise Unavailable(f"Kafka does not know {topic} yet", remedy="Try again in a moment")
        return standings

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
            self._reader.close()


def _standing(reader: Reader, where: Partition, committed: Committed) -> Standing:
    low, high = reader.ends(where)
    position = committed.position if committed.position >= 0 else low
    return Standing(position, max(0, high - position), decode_counts(committed.metadata))
