"""Control events that a service could not use: list them, and give them back when the cause is mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import KafkaException, Message, Producer

from penstock.client.events import TIMEOUT_S, Events
from penstock.contracts.connection import KafkaSettings
from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.topics import SHARED, dead_letter_topic


@dataclass(frozen=True)
class DeadLetter:
    id: str
    """`topic/partition/offset` of the dead letter itself."""
    topic: str
    """Where the event was."""
    group: str
    """Who could not use it."""
    event_type: str
    reason: str
    message: Message


class DeadLetters:
    def __init__(self, kafka: KafkaSettings, events: Events) -> None:
        self._kafka = kafka
        self._events = events

    def list(self) -> Iterator[DeadLetter]:
        for topic in SHARED:
            for consumer in topic.consumers:
                group = f"penstock.{consumer}"
                try:
                    for message in self._events.read(dead_letter_topic(topic.name, group)):
                        yield _dead_letter(topic.name, group, message)
                except NotFound:
                    continue  # nobody has written one

    def replay(self, identity: str) -> DeadLetter:
        """Publishes the event to its topic again, under its own id: who already applied it will skip it. Raises NotFound, Unavailable."""
        letter = next((letter for letter in self.list() if letter.id == identity), None)
        if letter is None:
            raise NotFound(f"no dead letter `{identity}`", remedy="See `penstock dead-letters list`")
        headers = {name: value for name, value in dict(letter.message.headers() or []).items() if not name.startswith("dlq-")}
        producer = Producer(self._kafka.client(enable_idempotence=True, message_timeout_ms=round(TIMEOUT_S * 1000)))
        try:
            producer.produce(self._kafka.topic(letter.topic), letter.message.value(), letter.message.key(), headers=headers)
            unsent = producer.flush(TIMEOUT_S)
        except KafkaException as error:
            raise Unavailable(f"Kafka does not take the event: {error}") from error
        if unsent:
            raise Unavailable(f"Kafka at {self._kafka.bootstrap_servers} does not take the event")
        return letter


def _dead_letter(topic: str, group: str, message: Message) -> DeadLetter:
    headers = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value or ""
        for name, value in dict(message.headers() or []).items()
    }
    return DeadLetter(
        id=f"{message.topic()}/{message.partition()}/{message.offset()}",
        topic=topic,
        group=group,
        event_type=headers.get("ce_type", "?").removeprefix("io.penstock."),
        reason=headers.get("dlq-reason", "?"),
        message=message,
    )
