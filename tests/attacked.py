"""A stack that somebody attacks, with a model that it serves: embedded, or in containers."""

from collections.abc import Iterable
from dataclasses import dataclass

from census import Served
from confluent_kafka import Producer

from penstock.contracts.events import Event
from penstock.runtime.settings import KafkaSettings
from penstock.testing.compose import ComposeUnderTest
from penstock.testing.stack import StackUnderTest


@dataclass(frozen=True)
class Attacked:
    stack: StackUnderTest | ComposeUnderTest
    served: Served

    @property
    def kafka(self) -> KafkaSettings:
        """Kafka as somebody reaches it who may write to every topic."""
        if isinstance(self.stack, ComposeUnderTest):
            return self.stack.kafka("admin")
        return self.stack.stack.admin

    def says(self, messages: Iterable[tuple[type[Event], bytes]]) -> None:
        """Writes to Kafka what is said to be such events. The key is nobody's, so that nothing genuine
        is compacted away.
        """
        kafka = self.kafka
        producer = Producer(kafka.client())
        for event, value in messages:
            producer.produce(kafka.topic(event.topic), value, "odd", headers={"ce_type": event.ce_type()})
        assert producer.flush(30) == 0
