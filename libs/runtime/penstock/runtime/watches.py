"""Watches of the control plane: Kafka's absence, consumers that stand still, partitions that a group
leaves out. Each runs until it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from faststream.confluent import KafkaBroker

from penstock.runtime.backoff import Backoff
from penstock.runtime.consumer import GroupConsumer
from penstock.runtime.kafka.assignment import Assignment
from penstock.runtime.kafka.progress import Progress
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

PING_S: Final = 2.0
ANSWERS_WITHIN_S: Final = 60.0  # seconds within which a consumer's client says where it is, or is broken


async def watch_kafka(broker: KafkaBroker, down: asyncio.Event, readiness: Readiness, address: str) -> None:
    """Waits for a broker at start, and again whenever `down` says that the client has lost all of
    them; readiness says so meanwhile.
    """
    while True:
        delay = Backoff(first=0.1, longest=5.0)
        tries = 0
        while not await broker.ping(timeout=PING_S):
            tries += 1
            down.set()
            readiness.waits_for("kafka", f"{address} does not answer, {tries} tries")
            await asyncio.sleep(delay.next())
        down.clear()
        readiness.has("kafka")
        await down.wait()


async def watch_progress(
    consumers: Sequence[GroupConsumer], fail: Callable[[str], None], *, every_s: float, looks: int
) -> None:
    """Fails a consumer that has messages before it and takes none for `looks` looks in a row, with
    an idle handler: it is broken in a way that it does not report.
    """
    watched = [(consumer, Progress(looks)) for consumer in consumers]
    while True:
        await asyncio.sleep(every_s)
        for consumer, progress in watched:
            try:
                async with asyncio.timeout(ANSWERS_WITHIN_S):
                    positions = await consumer.positions()
            except TimeoutError:
                fail(f"{consumer.router.group}: the consumer does not answer")
                continue
            for stalled in progress.look(positions, busy=consumer.busy):
                fail(f"{stalled.topic}/{stalled.partition}: {stalled.lag} messages wait and none is taken")


async def watch_groups(consumers: Sequence[GroupConsumer], kafka: KafkaSettings, *, every_s: float) -> None:
    """Forms a group anew that leaves out a partition."""
    watched = [(consumer, Assignment(kafka, consumer.router.group)) for consumer in consumers]
    while True:
        await asyncio.sleep(every_s)
        for consumer, assignment in watched:
            left_out = await asyncio.to_thread(assignment.look, consumer.router.topics)
            if left_out and consumer.client is not None:
                log.warning("partitions_left_out", group=consumer.router.group, partitions=left_out)
                await consumer.join_anew()
