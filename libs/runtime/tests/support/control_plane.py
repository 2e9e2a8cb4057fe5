"""Tables, events and topics of the control plane's tests, and a plain client of Kafka beside it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from sqlalchemy import String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from penstock.contracts.events import AuditStarted, Event, PipelineApplied, encode
from penstock.contracts.topics import SHARED
from penstock.runtime.broker import ControlPlane, Retries
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.testing.threads import in_a_thread

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUICK = Retries(first=0.02, longest=0.1, patience=120.0)
TOPICS = [topic for topic in SHARED if topic.name in ("audits.v1", "pipelines.v1", "reviews.v1")]
AUDITS = "audits.v1"
DLQ = "audits.v1.g.dlq"


class Tables(DeclarativeBase):
    pass


class Applied(Tables):
    __tablename__ = "applied"
    number: Mapped[int] = mapped_column(primary_key=True)
    audit: Mapped[str] = mapped_column(String(64))


def started(audit: str, digest: str = "d") -> AuditStarted:
    """`digest` is the key."""
    return AuditStarted(audit_id=audit, pipeline="p", digest=digest, started_at=NOON)


def applied(pipeline: str, number: int = 1) -> PipelineApplied:
    return PipelineApplied(
        pipeline=pipeline, number=number, spec={}, text="", digest="d", applied_at=NOON, applied_by="me"
    )


@contextlib.asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(plane.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ClientFailed):
            await task


class Topics:
    """Messages of a prefix as a user of Kafka sends and reads them, with a plain client."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer = Producer(settings.client(linger_ms=0, partitioner="murmur2_random"))

    def send(self, *events: Event) -> None:
        for number, event in enumerate(events):
            headers = {
                "ce_type": event.ce_type(),
                "ce_id": f"{type(event).__name__}-{event.key}-{number}-{uuid.uuid4().hex}",
            }
            self.raw(event.topic, encode(event), headers, key=event.key)

    def raw(
        self, topic: str, value: bytes | None, headers: dict[str, Any] | None = None, key: str = "k"
    ) -> None:
        self._producer.produce(self._settings.topic(topic), value, key, headers=headers or {})
        assert self._producer.flush(10) == 0

    def read(self, topic: str) -> list[Message]:
        """All there is now."""
        full = self._settings.topic(topic)
        consumer = Consumer(self._settings.client(group_id="nobody", enable_auto_commit=False))
        try:
            if full not in consumer.list_topics(timeout=5).topics:
                return []
            _, end = consumer.get_watermark_offsets(TopicPartition(full, 0), timeout=5)
            consumer.assign([TopicPartition(full, 0, 0)])
            found: list[Message] = []
            while len(found) < end:
                found += consumer.consume(end, 0.2)
            return found
        finally:
            consumer.close()

    def committed(self, topic: str, group: str) -> int:
        consumer = Consumer(
            self._settings.client(group_id=self._settings.topic(group), enable_auto_commit=False)
        )
        try:
            [position] = consumer.committed([TopicPartition(self._settings.topic(topic), 0)], timeout=10)
            return int(position.offset)
        finally:
            consumer.close()


def headers(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers() or []}


def audits(store: Store) -> list[str]:
    with in_a_thread(store.snapshot()) as session:
        return [*session.scalars(select(Applied.audit).order_by(Applied.number))]


def count_of(store: Store, table: type[DeclarativeBase]) -> int:
    with in_a_thread(store.snapshot()) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
