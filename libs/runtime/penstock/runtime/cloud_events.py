"""CloudEvents 1.0 in Kafka's binary mode: attributes in headers, JSON in the value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import Message


@dataclass(frozen=True)
class Received:
    """A message's place and what its headers say; nothing is decoded yet.

    `topic` is the catalogue's name; `event_id` is `ce_id`, or topic/partition/offset where a plain
    Kafka client sent none.
    """

    topic: str
    partition: int
    offset: int
    event_id: str
    event_type: str | None
    headers: dict[str, str]
    value: bytes | None
    key: bytes | None = None

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def lane(self) -> tuple[str, int, bytes | None]:
        """Messages of one are applied in their order."""
        return self.topic, self.partition, self.key


def receive(message: Message, prefix: str) -> Received:
    """Never raises: bytes in a header that are no UTF-8 are shown escaped."""
    found: Iterable[Any] = message.headers() or ()
    headers = {name: _text(value) for name, value in found}
    topic = (message.topic() or "").removeprefix(prefix)
    partition, offset = message.partition() or 0, message.offset() or 0
    return Received(
        topic,
        partition,
        offset,
        event_id=headers.get("ce_id") or f"{topic}/{partition}/{offset}",
        event_type=headers.get("ce_type"),
        headers=headers,
        value=message.value(),
        key=message.key(),
    )


def headers_of(
    *, event_id: str, source: str, event_type: str, time: datetime, subject: str, traceparent: str | None
) -> dict[str, str]:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": source,
        "ce_type": event_type,
        "ce_time": time.isoformat(),
        "ce_subject": subject,
        "content-type": "application/json",
    }
    return headers | ({"traceparent": traceparent} if traceparent else {})


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value or ""
