"""Compacted topics, read from their beginning by every replica: a plain consumer in a thread, no
group, no commits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from penstock.contracts import metrics
from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.messaging import DESTINATION, GROUP
from penstock.runtime.metrics import Reading, observed
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

POLL_S = 1.0
LOOK_FOR_TOPICS_S = 1.0
MEASURE_EVERY_S = 5.0
BATCH = 500


class Replay:
    """Reads `topics` whole, then goes on with what comes. Messages of one partition arrive in
    order, one batch at a time.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: Collection[str],
        *,
        name: str,
        group: str,
        apply: Callable[[Received], Awaitable[None]],
        caught_up: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        """`group`: whose events these are, where their lag is told; the topics are read without one."""
        self._kafka = kafka
        self._waiting = set(topics)
        self._name = name
        self._group = group
        self._apply = apply
        self._caught_up = caught_up
        self._failed = failed
        self._stop = threading.Event()
        self._unread: dict[str, set[int]] = {}
        self._look_at = 0.0
        self._applying: Future[None] | None = None
        self._lags: dict[str, int] = {}
        self._measure_at = 0.0

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Within about a second; what was being applied is canceled, as it is read again at the
        next start.
        """
        self._stop.set()
        if self._applying is not None:
            self._applying.cancel()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        consumer = Consumer(
            self._kafka.client(
                group_id=self._name,  # the client asks for one; it is never joined, and nothing is committed
                enable_auto_commit=False,
                enable_partition_eof=True,
                allow_auto_create_topics=False,
                topic_metadata_refresh_interval_ms=60_000,
                auto_offset_reset="earliest",
            ),
            logger=logging.getLogger("penstock.replay"),
        )
        try:
            with observed(metrics.LAG, self._behind):
                self._follow(consumer)
        except Exception as error:
            if not self._stop.is_set():
                log.exception("replay_failed")
                self._loop.call_soon_threadsafe(self._failed, f"replay: {error}")
        finally:
            consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        while not self._stop.is_set():
            if self._waiting and time.monotonic() >= self._look_at:
                self._assign(consumer)
                self._look_at = time.monotonic() + LOOK_FOR_TOPICS_S
            if self._unread:
                self._read(consumer)
            else:
                self._stop.wait(LOOK_FOR_TOPICS_S)
            if time.monotonic() >= self._measure_at:
                self._measure(consumer)

    def _behind(self) -> list[Reading]:
        """Messages not yet read, by topic, some seconds ago."""
        return [(float(lag), {DESTINATION: topic, GROUP: self._group}) for topic, lag in self._lags.items()]

    def _measure(self, consumer: Consumer) -> None:
        """By what the last fetch said; in this thread, since a client that is being polled lets no
        other in.
        """
        self._measure_at = time.monotonic() + MEASURE_EVERY_S
        found: dict[str, int] = {}
        for held in consumer.position(consumer.assignment()):
            low, high = consumer.get_watermark_offsets(
                TopicPartition(held.topic, held.partition), cached=True
            )
            topic = held.topic.removeprefix(self._kafka.topic_prefix)
            found[topic] = found.get(topic, 0) + max(0, high - max(held.offset, low, 0))
        self._lags = found

    def _assign(self, consumer: Consumer) -> None:
        try:
            known = consumer.list_topics(timeout=2.0).topics
        except KafkaException as error:
            log.info("replay_waits", why=error.args[0].str())
            return
        found = {
            topic
            for topic in self._waiting
            if (full := self._kafka.topic(topic)) in known and known[full].partitions
        }
        for topic in sorted(found):
            partitions = set(known[self._kafka.topic(topic)].partitions)
            self._unread[topic] = partitions
            consumer.incremental_assign(
                [
                    TopicPartition(self._kafka.topic(topic), number, OFFSET_BEGINNING)
                    for number in sorted(partitions)
                ]
            )
        self._waiting -= found

    def _read(self, consumer: Consumer) -> None:
        first = consumer.poll(POLL_S)
        if first is None:
            return
        messages = [first, *consumer.consume(BATCH, timeout=0)]
        events = [
            receive(message, self._kafka.topic_prefix) for message in messages if message.error() is None
        ]
        if events:
            self._applying = asyncio.run_coroutine_threadsafe(self._apply_all(events), self._loop)
            self._applying.result()
        for message in messages:
            if (error := message.error()) is not None:
                self._notice(message, error)

    async def _apply_all(self, events: list[Received]) -> None:
        for event in events:
            await self._apply(event)

    def _notice(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            topic = (message.topic() or "").removeprefix(self._kafka.topic_prefix)
            unread = self._unread.get(topic, set())
            unread.discard(message.partition() or 0)
            if not unread:
                self._loop.call_soon_threadsafe(self._caught_up, topic)
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.info("replay_trouble", why=error.str())
