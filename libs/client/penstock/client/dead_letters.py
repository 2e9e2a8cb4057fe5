"""Control events that a service could not use: list them, and give them back when the cause is mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import KafkaException, Message, Producer

from penstock.client.events import TIMEOUT_S, Events
from penstock.contracts.connection import KafkaSettings
from penstock.contracts.errors import Invalid, NotFound, Unavailable
from penstock.contracts.topics import SHARED, dead_letter_topic

REPLAYED = "dlq-replayed"
"""Header of the mark that follows a letter which was given back: the letter's partition and offset."""


@dataclass(frozen=True)
class DeadLetter:
    """A control event that a service put aside."""

    id: str
    """`topic/partition/offset` of the dead letter itself."""
    topic: str
    """The topic that the event was read from."""
    group: str
    """The consumer group that could not apply it."""
    event_type: str
    reason: str
    replayed: bool
    """Given back to its topic. One that fails again is a new letter."""
    message: Message


class DeadLetters:
    """`penstock.dead_letters`: what waits for somebody to mend its cause."""

    def __init__(self, kafka: KafkaSettings, events: Events) -> None:
        self._kafka = kafka
        self._events = events

    def list(self) -> Iterator[DeadLetter]:
        """Yields every dead letter that Kafka still holds. Raises Unavailable."""
        for topic in SHARED:
            for consumer in topic.consumers:
                group = f"penstock.{consumer}"
                try:
                    messages = [*self._events.read(dead_letter_topic(topic.name, group))]
                except NotFound:
                    continue  # nobody has written one
                replayed = {mark for message in messages if (mark := _headers(message).get(REPLAYED))}
                for message in messages:
                    if REPLAYED not in _headers(message):
                        yield _dead_letter(topic.name, group, message, replayed)

    def replay(self, identity: str) -> DeadLetter:
        """Publishes the event to its topic again, under its own id, then marks the letter. Who
        already applied the event will skip it, so that a mark that is missing does no harm.

        Raises NotFound, Unavailable, and Invalid for a letter that was too large to hold its event.
        """
        letter = next((letter for letter in self.list() if letter.id == identity), None)
        if letter is None:
            raise NotFound(f"no dead letter `{identity}`", remedy="See `penstock dead-letters list`")
        if left_out := _headers(letter.message).get("dlq-left-out"):
            raise Invalid(
                f"the letter holds no event: of {left_out} bytes it was too large",
                where=identity,
                remedy="Publish a smaller one",
            )
        headers = {
            name: value
            for name, value in dict(letter.message.headers() or []).items()
            if not name.startswith("dlq-")
        }
        # No transaction: its marker would be the control topic's last offset, which no reader's
        # position ever passes.
        producer = Producer(
            self._kafka.client(enable_idempotence=True, message_timeout_ms=round(TIMEOUT_S * 1000))
        )
        topic, partition = letter.message.topic(), letter.message.partition()
        assert topic is not None
        assert partition is not None
        try:
            producer.produce(
                self._kafka.topic(letter.topic), letter.message.value(), letter.message.key(), headers=headers
            )
            if not producer.flush(TIMEOUT_S):
                producer.produce(
                    topic, b"", partition=partition, headers={REPLAYED: _place(letter.message).encode()}
                )
            unsent = producer.flush(TIMEOUT_S)
        except KafkaException as error:
            raise Unavailable(
                f"Kafka at {self._kafka.bootstrap_servers} does not take the event: {error}"
            ) from error
        if unsent:
            raise Unavailable(f"Kafka at {self._kafka.bootstrap_servers} does not take the event")
        return letter


def _headers(message: Message) -> dict[str, str]:
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value or ""
        for name, value in dict(message.headers() or []).items()
    }


def _place(message: Message) -> str:
    return f"{message.partition()}/{message.offset()}"


def _dead_letter(topic: str, group: str, message: Message, replayed: set[str]) -> DeadLetter:
    headers = _headers(message)
    return DeadLetter(
        id=f"{message.topic()}/{_place(message)}",
        topic=topic,
        group=group,
        event_type=headers.get("ce_type", "?").removeprefix("io.penstock."),
        reason=headers.get("dlq-reason", "?"),
        replayed=_place(message) in replayed,
        message=message,
    )
