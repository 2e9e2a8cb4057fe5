"""Dead letters: control events that could not be applied, kept with the reason why.

A letter has the event's value, key and headers, and `dlq-` headers of its own. It goes to
`<topic>.<group>.dlq`, which is made when it is first needed.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

import structlog
from confluent_kafka import Message
from faststream.confluent import KafkaBroker

from penstock.contracts.errors import PenstockError
from penstock.contracts.topics import DAY_MS, MESSAGE_BYTES, Topic, dead_letter_topic
from penstock.runtime.cloud_events import Received
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

KEPT_MS: Final = 90 * DAY_MS


class DeadLetters:
    """One consumer group's."""

    def __init__(self, kafka: KafkaSettings, group: str, service: str, broker: KafkaBroker) -> None:
        """`service` owns the topics."""
        self._kafka = kafka
        self._group = group
        self._service = service
        self._broker = broker
        self._made: set[str] = set()

    async def put(self, message: Message, received: Received, error: Exception, tries: int) -> None:
        """Returns once Kafka has acknowledged the letter. Raises whatever hinders that."""
        name = await self._topic(received.topic)
        key, value, headers = message.key(), message.value() or b"", received.headers
        in_headers = sum(len(name) + len(text.encode()) for name, text in headers.items())
        size = len(key or b"") + len(value) + in_headers
        if size > MESSAGE_BYTES:
            # With its reason Kafka would not take it; the event itself lies where it was.
            key, value = None, b""
            headers = {name: headers[name][:100] for name in ("ce_id", "ce_type") if name in headers}
            headers["dlq-left-out"] = str(size)
        headers = headers | {
            "dlq-topic": received.topic,
            "dlq-partition": str(received.partition),
            "dlq-offset": str(received.offset),
            "dlq-group": self._group,
            "dlq-error": error.kind.value if isinstance(error, PenstockError) else type(error).__name__,
            "dlq-reason": str(error)[:1000],
            "dlq-tries": str(tries),
            "dlq-time": datetime.now(UTC).isoformat(),
        }
        await self._broker.publish(value, self._kafka.topic(name), key=key, headers=headers)
        log.error(
            "event_rejected",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            dead_letter=name,
            why=f"{type(error).__name__}: {error}",
            exc_info=None if isinstance(error, PenstockError) else error,
        )

    async def _topic(self, original: str) -> str:
        name = dead_letter_topic(original, self._group)
        if name not in self._made:
            topic = Topic(
                name,
                owner=self._service,
                consumers=("users",),
                key="as in the original",
                about=f"Events of {original} that could not be applied.",
                messages=("DeadLetter",),
                retention_ms=KEPT_MS,
            )
            await asyncio.to_thread(ensure_topics, self._kafka, [topic])
            self._made.add(name)
        return name
