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
from functools import cached_property, partial
from typing import Final, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from penstock.contracts import metrics
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.contracts.topics import DAY_MS, MESSAGE_BYTES, Topic, dead_letter_topic
from penstock.runtime import put_aside
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
AT_ONCE: Final = 100  # letters in memory at a time, up to 1 MB each


class Letter(NamedTuple):
    """A message that could not be applied, with the reason why."""

    received: Received
    error: Exception
    tries: int = 1


Refused = list[tuple[Letter, Exception]]  # that Kafka did not take, with the reason why


class DeadLetters:
    """Dead letters of one consumer group. Blocking, and safe from any thread."""

    def __init__(self, kafka: KafkaSettings, group: str, topics: Iterable[str] = ()) -> None:
        """`topics`: the count of their letters begins at zero. Connects to nothing."""
        for topic in topics:
            count(topic, group, 0)
        self._kafka = kafka
        self._group = group
        self._lock = threading.Lock()
        # By topic of letters, the places that the newest ones name, in their order.
        self._written: dict[str, dict[str, None]] = {}

    def put(self, letters: Sequence[Letter]) -> Refused:
        """Makes letters durable together, with one flush: Kafka has acknowledged all but those that are
        returned, with why.
        """
        with self._lock:
            closed = self._open_all({letter.received.topic for letter in letters})
            refused = [(one, closed[one.received.topic]) for one in letters if one.received.topic in closed]
            others = [one for one in letters if one.received.topic not in closed]
            new = {one.received.place: one for one in others if one.received.place not in self._known(one)}
            refused += self._send(list(new.values())) if new else []
            missing = {letter.received.place for letter, _ in refused}
            durable = [letter for letter in letters if letter.received.place not in missing]
            for letter in durable:
                self._remember(letter)
        for letter in durable:
            self._tell(letter)
        return refused

    def put_all(self, partition: Partition, unfit: Sequence[tuple[int, Exception]]) -> None:
        """Puts messages of the data plane aside, by their offsets. Raises where Kafka did not take one."""
        for _, why in self.put([Letter(_placed(partition, offset), error) for offset, error in unfit]):
            raise why

    def _tell(self, letter: Letter) -> None:
        received, error, _ = letter
        count(received.topic, self._group)
        put_aside.note()
        log.error(
            "event_rejected",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            dead_letter=self._topic(received.topic),
            why=f"{type(error).__name__}: {error}",
            exc_info=None if isinstance(error, PenstockError) else error,
        )

    def _topic(self, topic: str) -> str:
        return dead_letter_topic(topic, self._group)

    def _known(self, letter: Letter) -> dict[str, None]:
        return self._written[self._topic(letter.received.topic)]

    def _open_all(self, topics: Iterable[str]) -> dict[str, Exception]:
        """Returns those whose topic of letters cannot be made or read, with why."""
        closed: dict[str, Exception] = {}
        for topic in topics:
            name = self._topic(topic)
            try:
                if name not in self._written:
                    self._written[name] = self._open(name)
            except Exception as error:
                closed[topic] = error
        return closed

    def _remember(self, letter: Letter) -> None:
        known = self._known(letter)
        known[letter.received.place] = None
        if len(known) > KNOWN:
            del known[next(iter(known))]

    @cached_property
    def _producer(self) -> Producer:
        return producer(self._kafka, within_s=DELIVERY_S)

    def _send(self, letters: Sequence[Letter]) -> Refused:
        silent = Unavailable("Kafka has not acknowledged a dead letter", where=letters[0].received.place)
        said: dict[int, Exception | None] = dict.fromkeys(range(len(letters)), silent)

        def told(number: int, failure: KafkaError | None, _: object) -> None:
            said[number] = KafkaException(failure) if failure else None

        for number, letter in enumerate(letters):
            key, value, headers = self._letter(*letter)
            self._producer.produce(
                self._kafka.topic(self._topic(letter.received.topic)),
                value,
                key,
                headers=headers,
                on_delivery=partial(told, number),
            )
        self._producer.flush(DELIVERY_S + 1)
        refused = [(letters[number], why) for number, why in said.items() if why is not None]
        if refused:
            del self._producer  # Kafka may answer another, see kafka/recovery.py
        return refused

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
                **headers_about(
                    Partition(received.topic, received.partition), received.offset, self._group, error, tries
                ),
            },
        )

    def _open(self, name: str) -> dict[str, None]:
        """Makes the topic where it is missing; returns the places that its newest letters name."""
        ensure_topics(self._kafka, [topic_of_letters(name, self._group)])
        found: dict[str, None] = {}
        with Reader(self._kafka, self._group) as reader:
            where = Partition(name, 0)
            low, end = reader.ends(where)
            for start in range(max(low, end - KNOWN), end, AT_ONCE):
                for letter in reader.span(where, start, min(start + AT_ONCE, end), lambda _: False):
                    said = receive(letter, self._kafka.topic_prefix).headers
                    found[
                        "/".join(said.get(f"dlq-{part}", "") for part in ("topic", "partition", "offset"))
                    ] = None
        return found


def topic_of_letters(name: str, group: str) -> Topic:
    """Settings of a topic of dead letters."""
    return Topic(
        name,
        owner=group,
        consumers=("users",),
        key="as in the original",
        about="Messages that could not be applied.",
        messages=("DeadLetter",),
        retention_ms=KEPT_MS,
    )


def headers_about(
    partition: Partition, offset: int, group: str, error: Exception, tries: int = 1
) -> dict[str, str]:
    """Headers of a letter: the place of its message, and why that could not be applied."""
    return {
        "dlq-topic": partition.topic,
        "dlq-partition": str(partition.number),
        "dlq-offset": str(offset),
        "dlq-group": group,
        "dlq-error": error.kind.value if isinstance(error, PenstockError) else type(error).__name__,
        "dlq-reason": str(error)[:1000],
        "dlq-tries": str(tries),
        "dlq-time": datetime.now(UTC).isoformat(),
    }


def count(topic: str, group: str, letters: int = 1) -> None:
    """Counts letters about messages of `topic`."""
    _LETTERS.add(letters, {DESTINATION: topic, GROUP: group})


def _placed(partition: Partition, offset: int) -> Received:
    """A message by its place alone."""
    place = f"{partition.topic}/{partition.number}/{offset}"
    return Received(*partition, offset, place, None, {"dlq-left-out": "the value"}, None)
