"""Compacted topics, read from their beginning by every replica: a plain consumer in a thread, no
group, no commits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future

import structlog

from penstock.contracts import metrics
from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.kafka.messages import BEGINNING, Partition
from penstock.runtime.kafka.reading import Reader, Taken, lags, partition_of
from penstock.runtime.kafka.recovery import Recovery
from penstock.runtime.messaging import DESTINATION, GROUP
from penstock.runtime.metrics import Reading, observed
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

POLL_S = 1.0
LOOK_FOR_TOPICS_S = 1.0
ANSWER_S = 2.0
"""Seconds that an answer of Kafka's is waited for, and so may delay the stop."""
MEASURE_EVERY_S = 5.0
MEASURE_UNREAD_EVERY_S = 1.0
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
        progress: Callable[[str, int], None],
        caught_up: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        """`group`: whose events these are, where their lag is told; the topics are read without one.

        `progress` is told of a topic, until it has caught up, how many offsets are left.
        """
        self._kafka = kafka
        self._waiting = set(topics)
        self._name = name
        self._group = group
        self._apply = apply
        self._progress = progress
        self._caught_up = caught_up
        self._failed = failed
        self._recovery = Recovery(name, measured=False)
        self._stop = threading.Event()
        self._positions: dict[Partition, int] = {}
        """The next offset of each partition that is read."""
        self._unread: dict[str, set[Partition]] = {}
        """Partitions of each topic whose end was not reached yet."""
        self._applying: Future[None] | None = None
        self._lags: dict[str, int] = {}

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
        try:
            with observed(metrics.LAG, self._behind):
                self._recovery.run(self._stop, self._session)
        except Exception as error:
            if not self._stop.is_set():
                log.exception("replay_failed")
                self._loop.call_soon_threadsafe(self._failed, f"replay: {error}")

    def _session(self) -> None:
        look_at = measure_at = 0.0
        with Reader(self._kafka, self._name, within_s=ANSWER_S) as reader:
            reader.begin(self._positions)
            while not self._stop.is_set():
                if self._waiting and time.monotonic() >= look_at:
                    self._look_for_topics(reader)
                    look_at = time.monotonic() + LOOK_FOR_TOPICS_S
                if self._positions:
                    self._apply_all(reader.take(BATCH, POLL_S))
                else:
                    self._stop.wait(LOOK_FOR_TOPICS_S)
                if time.monotonic() >= measure_at:
                    self._lags = lags(self._kafka, reader.client, self._positions)
                    measure_at = time.monotonic() + self._tell_progress()

    def _behind(self) -> list[Reading]:
        """Messages not yet read, by topic, some seconds ago."""
        return [(float(lag), {DESTINATION: topic, GROUP: self._group}) for topic, lag in self._lags.items()]

    def _tell_progress(self) -> float:
        """Returns in how many seconds to measure again."""
        unread = [topic for topic, partitions in self._unread.items() if partitions]
        for topic in unread:
            self._loop.call_soon_threadsafe(self._progress, topic, self._lags.get(topic, 0))
        return MEASURE_UNREAD_EVERY_S if unread or self._waiting else MEASURE_EVERY_S

    def _look_for_topics(self, reader: Reader) -> None:
        for topic in sorted(self._waiting):
            if partitions := reader.partitions(topic):
                begun = dict.fromkeys(partitions, BEGINNING)
                reader.begin(begun)
                self._positions |= begun
                self._unread[topic] = set(partitions)
                self._waiting.remove(topic)

    def _apply_all(self, taken: Taken) -> None:
        """Returns when all of it is applied: the next session goes on after it."""
        if taken.messages:
            events = [receive(message, self._kafka.topic_prefix) for message in taken.messages]
            self._applying = asyncio.run_coroutine_threadsafe(self._apply_in_order(events), self._loop)
            self._applying.result()
            self._recovery.back()
            self._recovery.progressed()
        for message in taken.messages:
            self._positions[partition_of(self._kafka, message)] = (message.offset() or 0) + 1
        for partition, end in taken.ends.items():
            self._positions[partition] = max(self._positions[partition], end)
            unread = self._unread[partition.topic]
            unread.discard(partition)
            if not unread:
                self._loop.call_soon_threadsafe(self._caught_up, partition.topic)

    async def _apply_in_order(self, events: list[Received]) -> None:
        for event in events:
            await self._apply(event)
