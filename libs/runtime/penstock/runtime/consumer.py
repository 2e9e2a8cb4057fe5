"""One group's consumer: each message is applied, skipped, becomes a dead letter, or waits.

A message that waits (what it needs may come) holds back its own key: later ones of that key stand in
a lane behind it, in memory, and those of other keys go on. Of each partition that is committed below
which all are settled. So whoever reads on after a crash begins with the message that waited; what
was applied behind it is known to the inbox, and skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, cast

import structlog
from confluent_kafka import KafkaException, Message
from faststream import AckPolicy, BaseMiddleware
from faststream.confluent import KafkaMessage, KafkaRouter

from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.dead_letters import DeadLetters
from penstock.runtime.faststream_mends import Client
from penstock.runtime.kafka.clients import SESSION_MS
from penstock.runtime.kafka.progress import Position
from penstock.runtime.readiness import Readiness
from penstock.runtime.router import Patience, Router
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# A poll returns at once when a message comes; longer polls only make an idle service idler, and
# stopping up to this slower.
POLL_S = 1.0


# Messages in lanes; beyond it the next one is left in Kafka, and all wait.
MOST_WAITING = 100

Key = tuple[str, int, bytes | None]  # topic, partition and key
Lane = deque[tuple[Received, Patience]]


class GroupConsumer:
    """Handles the messages of one router, and settles each."""

    def __init__(
        self,
        router: Router,
        kafka: KafkaSettings,
        readiness: Readiness,
        begin: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        """`readiness` is told what waits; `begin` runs a task until the control plane ends."""
        self.router = router
        self.busy = False  # while a message is in its handler, or held back
        self.behind: dict[str, int] = {}  # messages before the group by topic, as `positions` found last
        self.stopping = asyncio.Event()
        self._kafka = kafka
        self._readiness = readiness
        self._begin = begin
        self._dead_letters = DeadLetters(kafka, router.group, router.topics)
        self._turn = asyncio.Lock()  # one handler runs at a time, whatever lane it is for
        self._lanes: dict[Key, Lane] = {}
        self._partitions: defaultdict[tuple[str, int], Partition] = defaultdict(Partition)
        self._subscribe()
        for topic in router.topics:
            for outcome in ("applied", "retried", "rejected"):
                router.count(topic, outcome, 0)  # a first one is seen as a rise, not as a beginning

    def _subscribe(self) -> None:
        """Makes FastStream's subscriber, on a router of its own: its middleware is this group's."""
        self.routes = KafkaRouter(
            middlewares=[partial(_Settle, group=self)],
            ack_policy=AckPolicy.MANUAL,
            parser=self._unparsed,
            decoder=_undecoded,
        )
        self.subscriber = self.routes.subscriber(
            *map(self._kafka.topic, self.router.topics),
            group_id=self._kafka.topic(self.router.group),
            auto_offset_reset="earliest",
            polling_interval=POLL_S,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 3,
        )
        self.subscriber(self._handle)

    @property
    def client(self) -> Client | None:
        """None before the start and after the end."""
        return cast("Client | None", self.subscriber.consumer)  # by `install`

    async def positions(self) -> list[Position]:
        """Positions of the assigned partitions. Raises Unavailable where Kafka does not answer."""
        found = await self.client.positions() if self.client is not None else []
        behind = dict.fromkeys(self.router.topics, 0)
        for position in found:
            behind[position.topic.removeprefix(self._kafka.topic_prefix)] += position.lag
        self.behind = behind
        return found

    async def join_anew(self) -> None:
        """The group is formed again. A message in hand is settled first; one that waits goes to who gets
        its partition, too: whoever is first applies it.
        """
        if self.client is not None:
            await self.client.join_anew()

    async def _unparsed(self, message: Message) -> KafkaMessage:
        """FastStream's own parser fails on a header that is no UTF-8."""
        return KafkaMessage(
            body=message.value() or b"", raw_message=message, consumer=cast(Any, self.client), is_manual=True
        )

    async def _handle(self, message: KafkaMessage) -> None:
        """FastStream's handler for every message of the group."""
        await self.take(cast(Message, message.raw_message))

    async def take(self, message: Message) -> None:
        """Returns when the message is settled, or waits in its lane. Raises nothing: one that cannot be
        taken now comes again.
        """
        received = receive(message, self._kafka.topic_prefix)
        partition = self._partitions[received.topic, received.partition]
        self.busy = True
        try:
            if sum(map(len, self._lanes.values())) >= MOST_WAITING:
                await self._hold(received)
            elif partition.take(received.offset):
                await self._line_up(received)
        finally:
            self.busy = False

    async def _line_up(self, received: Received) -> None:
        key = received.topic, received.partition, received.key
        lane = self._lanes.setdefault(key, deque())
        lane.append((received, patience := Patience(self.router.retries)))
        if len(lane) == 1:
            if await self._settled(received, patience):
                del self._lanes[key]
            else:
                self._begin(self._drain(key, lane), "waiting events")

    async def _drain(self, key: Key, lane: Lane) -> None:
        while lane and not self.stopping.is_set():
            received, patience = lane[0]
            if patience.tries:
                await self._pause(patience.delay())
            if await self._settled(received, patience):
                lane.popleft()
        if not lane:
            del self._lanes[key]
            self._say("")

    async def _settled(self, received: Received, patience: Patience) -> bool:
        """Tries the message once. False where it is to be tried again."""
        try:
            async with self._turn:
                outcome = "applied" if await self.router.handle(received) else "skipped"
        except Exception as error:
            if patience.lasts(error) or not await self._put_aside(received, error, patience.tries):
                self._waits(received, error, patience.tries)
                return False
            outcome = "rejected"
        self.router.count(received.topic, outcome)
        partition = self._partitions[received.topic, received.partition]
        partition.waiting.discard(received.offset)
        if self.client is not None:
            self.client.commit(self._kafka.topic(received.topic), received.partition, partition.settled)
        return True

    async def _put_aside(self, received: Received, error: Exception, tries: int) -> bool:
        try:
            await asyncio.to_thread(self._dead_letters.put, received, error, tries)
        except Exception as failure:
            log.warning("dead_letter_waits", place=received.place, why=str(failure))
            return False
        return True

    def _waits(self, received: Received, error: Exception, tries: int) -> None:
        why = f"{type(error).__name__}: {error}"
        self.router.count(received.topic, "retried")
        log.warning(
            "event_retried",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            tries=tries,
            why=why,
        )
        self._say(f"{received.place} waits, {sum(map(len, self._lanes.values()))} in all: {why}")

    def _say(self, text: str) -> None:
        self._readiness.fact(f"events of {self.router.group}", text)

    async def _hold(self, received: Received) -> None:
        """Too many wait: the message comes again. Rewound before the pause: had the consumer to stop
        meanwhile, it is still the next one.
        """
        if self.client is not None:
            # Suppressed: the partition went to another replica, and the message with it.
            with contextlib.suppress(KafkaException, RuntimeError):
                await self.client.seek(self._kafka.topic(received.topic), received.partition, received.offset)
        await self._pause(self.router.retries.first)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()


class Partition:
    """Offsets of one partition that are taken: `waiting`, or settled."""

    def __init__(self) -> None:
        self.waiting: set[int] = set()
        self._next = 0

    @property
    def settled(self) -> int:
        """The offset below which all are."""
        return min(self.waiting, default=self._next)

    def take(self, offset: int) -> bool:
        """False for one that was taken and comes again, behind one that waits."""
        if self.settled <= offset < self._next:
            return False
        self._next = offset + 1
        self.waiting.add(offset)
        return True


class _Settle(BaseMiddleware[Any, Any]):
    """Takes a message whatever FastStream makes of it, so that no failure of its own passes one over."""

    def __init__(self, message: Any, /, *, context: Any, group: GroupConsumer) -> None:
        super().__init__(message, context=context)
        self._group = group

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        if isinstance(exc_val, Exception):
            await self._group.take(self.msg)
        return exc_val is None or isinstance(exc_val, Exception)  # cancelled: it stays uncommitted


async def _undecoded(message: KafkaMessage) -> Any:
    return message.body
