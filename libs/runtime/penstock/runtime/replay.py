"""Compacted topics, read from their beginning by every replica: a plain consumer in a thread, no
group, no commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from penstock.contracts import metrics
from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.dead_letters import DeadLetters, Letter
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.kafka.reading import Reader, Taken, lags
from penstock.runtime.kafka.recovery import RENEW_AFTER_S, Recovery
from penstock.runtime.lanes import Lanes
from penstock.runtime.letter_box import LetterBox
from penstock.runtime.messaging import lag_readings
from penstock.runtime.metrics import observed
from penstock.runtime.readiness import Readiness
from penstock.runtime.router import Router
from penstock.runtime.settings import KafkaSettings

POLL_S = 1.0
LOOK_FOR_TOPICS_S = 1.0
ANSWER_S = 2.0  # that an answer of Kafka's is waited for, and so may delay the stop
BATCH = 500  # messages that are taken at once
OTHERS_WAIT_S = 1.0  # for an event that is being applied; then it holds back its own key alone
MOST_WAITING = 1_000  # events that are being applied; beyond it all wait


class Replay:
    """Reads the routers' replayed topics whole, then goes on with what comes. Messages of one key
    are applied in order.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        routers: Sequence[Router],
        readiness: Readiness,
        *,
        service: str,
        owner: str,
    ) -> None:
        """`service`: whose events these are; its lag is told under its name, though the topics are read
        without a group. `owner`: the replica. `readiness` waits for each topic until it has caught up.
        """
        self._kafka = kafka
        self._routers = routers
        self._readiness = readiness
        self._group = f"penstock.{service}"
        self._name = f"{owner}/replay"
        self._recovery = Recovery(self._name, measured=False)
        self._letters = {
            router: LetterBox(DeadLetters(kafka, router.group, router.replayed_topics), changed=self._say)
            for router in routers
        }
        self._stop = threading.Event()
        self._missing = {topic for router in routers for topic in router.replayed_topics}
        self._positions: dict[Partition, int] = {}
        self._unread: dict[str, dict[Partition, int]] = {}  # ends that were not reached yet
        self._applying: Future[None] | None = None
        self._lanes: Lanes[tuple[Router, str, bytes | None]] = Lanes(self._say)  # by topic and key
        self._lags: dict[str, int] = {}

    async def run(self) -> None:
        """Reads in a thread until it is cancelled, and ends within about a second then. What was being
        applied is read again at the next start.
        """
        self._loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        reading = self._loop.run_in_executor(thread, self._recovery.run, self._stop, self._session)
        try:
            with observed(metrics.LAG, lambda: lag_readings(self._group, self._lags)):
                await asyncio.shield(reading)
        finally:
            self._stop.set()
            if self._applying is not None:
                self._applying.cancel()
            await self._lanes.close()
            await asyncio.gather(*(letters.close() for letters in self._letters.values()))
            await asyncio.gather(reading, return_exceptions=True)

    def _session(self) -> None:
        look_at = 0.0
        ask_at = time.monotonic() + RENEW_AFTER_S
        with Reader(self._kafka, self._name, within_s=ANSWER_S) as reader:
            reader.begin(self._positions)
            while not self._stop.is_set():
                if self._missing and time.monotonic() >= look_at:
                    self._look_for_topics(reader)
                    self._tell_progress()
                    look_at = time.monotonic() + LOOK_FOR_TOPICS_S
                if self._positions and self._lanes.waiting < MOST_WAITING:
                    self._apply(reader.take(BATCH, POLL_S))
                else:
                    self._stop.wait(LOOK_FOR_TOPICS_S)
                if time.monotonic() >= ask_at:
                    self._ask(reader)
                    ask_at = time.monotonic() + RENEW_AFTER_S
                self._lags = lags(self._kafka, reader.client, self._positions)
                self._tell_progress()

    def _look_for_topics(self, reader: Reader) -> None:
        """Asks where each partition begins and ends, and begins with all of them together: a client that
        finds it out while it reads waits half a second for each, in turn, and longer for its end.
        """
        found = {topic: reader.partitions(topic) for topic in sorted(self._missing)}
        bounds = {partition: reader.ends(partition) for there in found.values() for partition in there}
        begun = {partition: first for partition, (first, _) in bounds.items()}
        reader.begin(begun)
        self._positions |= begun
        for topic, partitions in found.items():
            if partitions:
                self._missing.remove(topic)
                ends = {partition: bounds[partition][1] for partition in partitions}
                self._unread[topic] = {at: end for at, end in ends.items() if begun[at] < end}

    def _ask(self, reader: Reader) -> None:
        """Raises Unavailable where Kafka does not answer this client: silence alone says nothing."""
        if self._positions:
            reader.partitions(next(iter(self._positions)).topic)

    def _tell_progress(self) -> None:
        for topic, partitions in list(self._unread.items()):
            if partitions:
                left = self._lags.get(topic, 0)
                self._readiness.waits_for(topic, f"reading it from the beginning, {left:,} offsets are left")
            elif waiting := sum(key[1] == topic for key in self._lanes.keys):
                why = f"events of {waiting} keys wait to be applied{self._why()}"
                self._readiness.waits_for(topic, why)
            elif any(topic in letters.topics for letters in self._letters.values()):
                self._readiness.waits_for(topic, "dead letters are being written")
            else:
                del self._unread[topic]
                self._readiness.has(topic)
                for router in self._routers:
                    self._loop.call_soon_threadsafe(router.mark_caught_up, topic)

    def _apply(self, taken: Taken) -> None:
        """Returns when all of it is applied or in a lane: the next session goes on after it."""
        if taken.messages:
            events = [receive(message, self._kafka.topic_prefix) for message in taken.messages]
            self._applying = asyncio.run_coroutine_threadsafe(self._apply_in_order(events), self._loop)
            self._applying.result()
            self._recovery.back()
            self._recovery.progressed()
            self._positions |= {Partition(event.topic, event.partition): event.offset + 1 for event in events}
        for partition, end in taken.ends.items():
            self._positions[partition] = max(self._positions[partition], end)
            self._unread.get(partition.topic, {}).pop(partition, None)
        for ends in self._unread.values():
            for partition in [at for at, end in ends.items() if self._positions[at] >= end]:
                del ends[partition]

    async def _apply_in_order(self, events: Sequence[Received]) -> None:
        """Returns when each is applied, or waits in its lane, and dead letters are durable, or wait."""
        for router in self._routers:
            for event in events:
                if event.event_type in router.replays:
                    router.read(event)
        for event in events:
            for router in self._routers:
                if event.event_type in router.replays:
                    apply = partial(router.replay, event, partial(self._reject, router))
                    key = router, event.topic, event.key
                    await self._lanes.run(key, apply, asyncio.sleep(OTHERS_WAIT_S))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OTHERS_WAIT_S):
                await asyncio.gather(*(letters.written() for letters in self._letters.values()))

    async def _reject(self, router: Router, received: Received, error: Exception, tries: int) -> None:
        await self._letters[router].put(Letter(received, error, tries))

    def _say(self) -> None:
        waiting = sorted(
            f"{topic} {(key or b'').decode(errors='replace')}" for _, topic, key in self._lanes.keys
        )
        said = [f"events wait: {', '.join(waiting)}{self._why()}"] if waiting else []
        said += [letters.why for letters in self._letters.values() if letters.why]
        self._readiness.fact("replay", "; ".join(said))

    def _why(self) -> str:
        return "".join({f"; {router.why}": None for router, _, _ in self._lanes.keys if router.why})
