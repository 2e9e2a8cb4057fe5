"""Consumer of one group: each message is applied, skipped, becomes a dead letter, or waits.

Dead letters of what comes in a row are made durable together. Until then their messages are not
settled, and one behind them, of their key, has no effect: it comes again after a crash as they do.
A message that waits (what it needs may come) holds back its own key: later ones of that key stand in
a lane behind it, in memory, and those of other keys go on. Of each partition that is committed below
which all are settled. So whoever reads on after a crash begins with the message that waited; what
was applied behind it is known to the inbox, and skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, cast

import structlog
from confluent_kafka import KafkaException, Message
from faststream import AckPolicy, BaseMiddleware
from faststream.confluent import KafkaMessage, KafkaRouter

from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.dead_letters import DeadLetters, Letter
from penstock.runtime.faststream_mends import Client
from penstock.runtime.kafka.clients import SESSION_MS
from penstock.runtime.kafka.progress import Position
from penstock.runtime.lanes import Lanes
from penstock.runtime.letter_box import Behind, LetterBox
from penstock.runtime.readiness import Readiness
from penstock.runtime.router import Patience, Router
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# A poll returns at once when a message comes; longer polls only make an idle service idler, and
# stopping up to this slower.
POLL_S = 1.0


# Messages in lanes; beyond it the next one is left in Kafka, and all wait.
MOST_WAITING = 100
FINISH_WITHIN_S = 10.0


class GroupConsumer:
    """Handles the messages of one router, and settles each."""

    def __init__(self, router: Router, kafka: KafkaSettings, readiness: Readiness) -> None:
        """`readiness` is told what waits."""
        self.router = router
        self._in_hand = False  # while a message is in its handler, or held back
        self.behind: dict[str, int] = {}  # messages before the group by topic, as `positions` found last
        self.stopping = asyncio.Event()
        self._kafka = kafka
        self._readiness = readiness
        letters = DeadLetters(kafka, router.group, router.topics)
        self._letters = LetterBox(letters, written=partial(self._finish, "rejected"), changed=self._say)
        self._turn = asyncio.Lock()  # one handler runs at a time, whatever lane it is for
        self._lanes: Lanes[tuple[str, int, bytes | None]] = Lanes(self._say)
        self._why = ""  # the last that was tried in vain waits
        self._offsets: defaultdict[tuple[str, int], Offsets] = defaultdict(Offsets)
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
    def busy(self) -> bool:
        """Tells whether no other message can be taken now: one is in hand, or too many wait."""
        return self._in_hand or self._is_full

    @property
    def _is_full(self) -> bool:
        return self._lanes.waiting >= MOST_WAITING

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

    async def stop(self) -> None:
        """Finishes what is in a handler; what waits comes again at the next start."""
        self.stopping.set()
        await asyncio.gather(self._lanes.close(FINISH_WITHIN_S), self._letters.close())
        await self.subscriber.stop()

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
        self._in_hand = True
        try:
            if self._is_full:
                await self._hold(received)
            elif self._offsets[received.topic, received.partition].take(received.offset):
                waits = asyncio.Event()
                await self._lanes.run(received.lane, partial(self._settle, received, waits), waits.wait())
        finally:
            self._in_hand = False

    async def _settle(self, received: Received, waits: asyncio.Event) -> None:
        """Sets `waits` after the first try that was in vain."""
        patience = Patience(self.router.retries)
        while not self.stopping.is_set():
            try:
                if await self._settled(received, patience):
                    return
                pause = self._pause(patience.delay())
            except Behind:
                pause = self._letters.written(before=received)
            waits.set()
            await pause

    async def _settled(self, received: Received, patience: Patience) -> bool:
        """Tries the message once: it is applied, or its dead letter on its way. False where it is to be
        tried again. Raises Behind.
        """
        try:
            async with self._turn:
                new = await self.router.handle(received, partial(self._letters.pass_by, received))
        except Behind:
            raise
        except Exception as error:
            if patience.lasts(error):
                self._waits(received, error, patience.tries)
                return False
            await self._letters.put(Letter(received, error, patience.tries))
        else:
            self._finish("applied" if new else "skipped", [received])
        return True

    def _finish(self, outcome: str, settled: Sequence[Received]) -> None:
        for one in settled:
            self.router.count(one.topic, outcome)
            self._offsets[one.topic, one.partition].waiting.discard(one.offset)
        for topic, partition in {(one.topic, one.partition) for one in settled}:
            if self.client is not None:
                offset = self._offsets[topic, partition].settled
                self.client.commit(self._kafka.topic(topic), partition, offset)

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
        self._why = f"{received.place} waits: {why}"
        if self._lanes.waiting:
            self._say()

    def _say(self) -> None:
        self._why = self._why if self._lanes.waiting else ""
        waiting = f"{self._lanes.waiting} events wait; {self._why}" if self._why else ""
        said = "; ".join(filter(None, [waiting, self._letters.why]))
        self._readiness.fact(f"events of {self.router.group}", said)

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


class Offsets:
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
