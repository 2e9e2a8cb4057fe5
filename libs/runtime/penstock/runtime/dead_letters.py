"""Dead letters: messages that could not be applied, kept with their place and the reason why.

A control event's letter has the event's value, key and headers, and `dlq-` headers of its own. One
of the data plane has its headers alone: the message, a person's data, stays where its retention
ends. A letter goes to `<topic>.<group>.dlq`, which is made when it is first needed; whoever reads a
topic anew at each start finds its letters there, and writes none twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from penstock.contracts import metrics
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.topics import DAY_MS, MESSAGE_BYTES, Topic, dead_letter_topic
from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.clients import producer
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.messaging import DESTINATION, GROUP
from penstock.runtime.metrics import counter
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)
_LETTERS = counter(metrics.DEAD_LETTERS)

Reject = Callable[[Partition, Sequence[tuple[int, Exception]]], None]  # `put_all`

KEPT_MS: Final = 90 * DAY_MS
DELIVERY_S: Final = 10.0
KNOWN: Final = 10_000  # of the newest letters it is known whether they are there
AT_ONCE: Final = 100  # letters in memory while those are read, up to 1 MB each


class DeadLetters:
    """One consumer group's. Blocking, and safe from any thread."""

    def __init__(self, kafka: KafkaSettings, group: str, topics: Iterable[str] = ()) -> None:
        """`topics`: the count of their letters begins at zero. Connects to nothing."""
        for topic in topics:
            _LETTERS.add(0, {DESTINATION: topic, GROUP: group})
        self._kafka = kafka
        self._group = group
        self._lock = threading.Lock()
        # By topic, partitions and offsets of the newest letters, in their order.
        self._written: dict[str, dict[tuple[str, str], None]] = {}

    def put(self, received: Received, error: Exception, tries: int = 1) -> None:
        """Returns once Kafka has acknowledged the letter. Raises KafkaException and Unavailable."""
        self._put(received.topic, [(received, error)], tries)

    def put_all(self, partition: Partition, unfit: Sequence[tuple[int, Exception]]) -> None:
        """Puts messages of the data plane aside, by their offsets. Raises as `put` does."""
        self._put(partition.topic, [(_placed(partition, offset), error) for offset, error in unfit])

    def _put(self, topic: str, letters: Sequence[tuple[Received, Exception]], tries: int = 1) -> None:
        name = dead_letter_topic(topic, self._group)
        with self._lock:
            if name not in self._written:
                self._written[name] = self._open(name)
            new = {
                place: letter
                for letter in letters
                if (place := (str(letter[0].partition), str(letter[0].offset))) not in self._written[name]
            }
            self._send(name, new.values(), tries)
            known = self._written[name]
            known |= dict.fromkeys(new)
            while len(known) > KNOWN:
                del known[next(iter(known))]
        _LETTERS.add(len(letters), {DESTINATION: topic, GROUP: self._group})
        for received, error in letters:
            log.error(
                "event_rejected",
                place=received.place,
                event_id=received.event_id,
                event_type=received.event_type,
                dead_letter=name,
                why=f"{type(error).__name__}: {error}",
                exc_info=None if isinstance(error, PenstockError) else error,
            )

    @cached_property
    def _producer(self) -> Producer:
        return producer(self._kafka, within_s=DELIVERY_S)

    def _send(self, name: str, letters: Iterable[tuple[Received, Exception]], tries: int) -> None:
        refused: list[KafkaError] = []
        for received, error in letters:
            key, value, headers = self._letter(received, error, tries)
            self._producer.produce(
                self._kafka.topic(name),
                value,
                key,
                headers=headers,
                on_delivery=lambda failure, _: refused.append(failure) if failure else None,
            )
        left = self._producer.flush(DELIVERY_S + 1)
        if left or refused:
            del self._producer  # Kafka may answer another, see kafka/recovery.py
        if refused:
            raise KafkaException(refused[0])
        if left:
            raise Unavailable("Kafka has not acknowledged a dead letter", where=name)

    def _letter(
        self, received: Received, error: Exception, tries: int
    ) -> tuple[bytes | None, bytes, dict[str, str | bytes | None]]:
        key, value, headers = received.key, received.value or b"", received.headers
        in_headers = sum(len(name) + len(text.encode()) for name, text in headers.items())
        size = len(key or b"") + len(value) + in_headers
        if size > MESSAGE_BYTES:
            # With its reason Kafka would not take it; the event itself lies where it was.
            key, value = None, b""
            headers = {name: headers[name][:100] for name in ("ce_id", "ce_type") if name in headers}
            headers["dlq-left-out"] = str(size)
        return (
            key,
            value,
            {
                **headers,
                "dlq-topic": received.topic,
                "dlq-partition": str(received.partition),
                "dlq-offset": str(received.offset),
                "dlq-group": self._group,
                "dlq-error": error.kind.value if isinstance(error, PenstockError) else type(error).__name__,
                "dlq-reason": str(error)[:1000],
                "dlq-tries": str(tries),
                "dlq-time": datetime.now(UTC).isoformat(),
            },
        )

    def _open(self, name: str) -> dict[tuple[str, str], None]:
        """Makes the topic where it is missing; returns the places that its newest letters name."""
        topic = Topic(
            name,
            owner=self._group,
            consumers=("users",),
            key="as in the original",
            about="Messages that could not be applied.",
            messages=("DeadLetter",),
            retention_ms=KEPT_MS,
        )
        ensure_topics(self._kafka, [topic])
        found: dict[tuple[str, str], None] = {}
        with Reader(self._kafka, self._group) as reader:
            where = Partition(name, 0)
            low, end = reader.ends(where)
            for start in range(max(low, end - KNOWN), end, AT_ONCE):
                for letter in reader.span(where, start, min(start + AT_ONCE, end), lambda _: False):
                    said = receive(letter, self._kafka.topic_prefix).headers
                    found[said.get("dlq-partition", ""), said.get("dlq-offset", "")] = None
        return found


def _placed(partition: Partition, offset: int) -> Received:
    """A message by its place alone."""
    place = f"{partition.topic}/{partition.number}/{offset}"
    return Received(*partition, offset, place, None, {"dlq-left-out": "the value"}, None)
