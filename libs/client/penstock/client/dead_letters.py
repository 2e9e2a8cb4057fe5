"""Messages that a service could not use: list them, and give control events back when the cause is
mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import KafkaException, Message, Producer

from penstock.client.events import KAFKA_LOG, TIMEOUT_S, Events
from penstock.contracts.connection import KafkaSettings
from penstock.contracts.errors import Invalid, NotFound, Unavailable
from penstock.contracts.topics import DEAD_LETTERS

# Header of the mark that follows a letter which was given back: the letter's partition and offset.
REPLAYED = "dlq-replayed"


@dataclass(frozen=True)
class DeadLetter:
    """A message that a service put aside. `replayed`: given back to its topic; one that fails
    again is a new letter.
    """

    id: str  # `topic/partition/offset` of the dead letter itself
    topic: str  # that the event was read from
    group: str  # the consumer group that could not apply it
    event_type: str
    reason: str
    replayed: bool
    message: Message


class DeadLetters:
    """`penstock.dead_letters`: what waits for somebody to mend its cause."""

    def __init__(self, kafka: KafkaSettings, events: Events) -> None:
        self._kafka = kafka
        self._events = events

    def list(self) -> Iterator[DeadLetter]:
        """Yields every dead letter that Kafka still holds. Raises Unavailable."""
        for name in self._events.topics(DEAD_LETTERS):
            messages = [*self._events.read(name)]
            replayed = {mark for message in messages if (mark := _headers(message).get(REPLAYED))}
            for message in messages:
                if REPLAYED not in _headers(message):
                    yield _dead_letter(name, message, replayed)

    def replay(self, identity: str) -> DeadLetter:
        """Publishes the event to its topic again, under its own id, then marks the letter. Who
        already applied the event will skip it, so that a mark that is missing does no harm.

        Raises NotFound, Unavailable, and Invalid for a letter that does not hold its message.
        """
        letter = next((letter for letter in self.list() if letter.id == identity), None)
        if letter is None:
            raise NotFound(f"no dead letter `{identity}`", remedy="See `penstock dead-letters list`")
        message = letter.message
        said = _headers(message)
        if site := said.get("dlq-site"):
            raise Invalid(
                f"the letter does not hold the record, which site {site} forwarded: no topic takes it. It had"
                f" {said.get('dlq-left-out')}",
                where=identity,
                remedy="Publish the event again where it came from, once its pipeline takes it",
            )
        if "dlq-left-out" in said:
            raise Invalid(
                "the letter does not hold the message: it is a person's data, or too large",
                where=identity,
                remedy=f"It lies at {letter.topic}, where the letter says, until its retention ends",
            )
        headers = dict(message.headers() or []).items()
        own = {name: value for name, value in headers if not name.startswith("dlq-")}
        topic, partition, offset = letter.id.rsplit("/", 2)
        mark: dict[str, str | bytes | None] = {REPLAYED: f"{partition}/{offset}"}
        # No transaction: its marker would be the control topic's last offset, which no reader's
        # position ever passes.
        producer = Producer(
            self._kafka.client(enable_idempotence=True, message_timeout_ms=round(TIMEOUT_S * 1000)),
            logger=KAFKA_LOG,
        )
        refusal = f"Kafka at {self._kafka.bootstrap_servers} does not take the event"
        try:
            producer.produce(self._kafka.topic(letter.topic), message.value(), message.key(), headers=own)
            if not producer.flush(TIMEOUT_S):
                producer.produce(topic, b"", partition=int(partition), headers=mark)
        except KafkaException as error:
            raise Unavailable(f"{refusal}: {error}") from error
        if producer.flush(TIMEOUT_S):
            raise Unavailable(refusal)
        return letter


def _headers(message: Message) -> dict[str, str]:
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value or ""
        for name, value in dict(message.headers() or []).items()
    }


def _dead_letter(name: str, message: Message, replayed: set[str]) -> DeadLetter:
    headers = _headers(message)
    topic, _, group = name.removesuffix(DEAD_LETTERS).rpartition(".penstock.")
    place = f"{message.partition()}/{message.offset()}"
    return DeadLetter(
        id=f"{message.topic()}/{place}",
        topic=topic,
        group=f"penstock.{group}",
        event_type=headers.get("ce_type", "?").removeprefix("io.penstock."),
        reason=headers.get("dlq-reason", "?"),
        replayed=place in replayed,
        message=message,
    )
