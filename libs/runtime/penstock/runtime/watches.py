"""Watches of the control plane: Kafka's absence, consumers that stand still, partitions that a group
leaves out. Each runs until it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from faststream.confluent import KafkaBroker

from penstock.contracts.errors import Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.consumer import GroupConsumer
from penstock.runtime.kafka.admin import answers
from penstock.runtime.kafka.assignment import Assignment
from penstock.runtime.kafka.progress import Progress
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

PING_S: Final = 2.0
OTHERS_ANSWERED: Final = 4  # tries at which Kafka answers another client, and then this one is broken
OTHERS_ANSWERED_LOOKS: Final = 2
ANSWERS_WITHIN_S: Final = 60.0  # seconds within which a consumer's client says where it is, or is broken


async def watch_kafka(
    broker: KafkaBroker, down: asyncio.Event, readiness: Readiness, kafka: KafkaSettings
) -> None:
    """Waits for a broker at start, and again whenever `down` says that the client has lost all of
    them; readiness says so meanwhile. Raises ClientFailed where Kafka answers others only.
    """
    while True:
        delay = Backoff(first=0.1, longest=5.0)
        tries = others = 0
        while not await broker.ping(timeout=PING_S):
            tries += 1
            down.set()
            readiness.waits_for("kafka", f"{kafka.bootstrap_servers} does not answer, {tries} tries")
            others = others + 1 if await asyncio.to_thread(answers, kafka) else 0
            if others == OTHERS_ANSWERED:
                raise ClientFailed("Kafka answers a new client, and not this one", where="producer")
            await asyncio.sleep(delay.next())
        down.clear()
        readiness.has("kafka")
        await down.wait()


async def watch_progress(
    consumers: Sequence[GroupConsumer],
    kafka: KafkaSettings,
    readiness: Readiness,
    fail: Callable[[str], None],
    *,
    every_s: float,
    looks: int,
) -> None:
    """Fails a consumer that has messages before it and takes none for `looks` looks in a row, with
    an idle handler, and one that Kafka does not answer though it answers others: it is broken in a
    way that it does not report.
    """
    watched = [(consumer, Progress(looks)) for consumer in consumers]
    others: Counter[str] = Counter()  # looks in a row at which Kafka answered others, by group
    while True:
        await asyncio.sleep(every_s)
        for consumer, progress in watched:
            group = consumer.router.group
            try:
                async with asyncio.timeout(ANSWERS_WITHIN_S):
                    positions = await consumer.positions()
            except TimeoutError:
                fail(f"{group}: the consumer does not answer")
                continue
            except Unavailable as error:
                readiness.waits_for(f"kafka for {group}", str(error))
                others[group] = others[group] + 1 if await asyncio.to_thread(answers, kafka) else 0
                if others[group] == OTHERS_ANSWERED_LOOKS:
                    fail(f"{group}: Kafka answers a new client, and not this consumer")
                continue
            readiness.has(f"kafka for {group}")
            del others[group]
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
