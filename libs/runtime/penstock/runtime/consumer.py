"""One group's consumer: after each message it is decided whether it is committed, comes again, or
becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from penstock.runtime.router import Patience, Router
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

# A poll returns at once when a message comes; longer polls only make an idle service idler, and
# stopping up to this slower.
POLL_S = 1.0


class GroupConsumer:
    """Handles the messages of one router, and settles each."""

    def __init__(self, router: Router, kafka: KafkaSettings) -> None:
        self.router = router
        self.busy = False  # while a message is in its handler, or waits before it is tried again
        self.behind: dict[str, int] = {}  # messages before the group by topic, as `positions` found last
        self.stopping = asyncio.Event()
        self._kafka = kafka
        self._dead_letters = DeadLetters(kafka, router.group, router.topics)
        self._applied = False
        self._troubles: dict[str, Patience] = {}  # by the place of the message that failed
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
        """The group is formed again. A message in hand is settled first; one that is being tried
        again goes to who gets its partition.
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
        self.busy, self._applied = True, False
        self._applied = await self.router.handle(receive(message.raw_message, self._kafka.topic_prefix))  # type: ignore[arg-type]

    async def settle(self, message: Message, error: Exception | None) -> None:
        """Settles a message that was handled. Raises nothing: one that cannot be settled now comes
        again.
        """
        received = receive(message, self._kafka.topic_prefix)
        try:
            if error is not None:
                await self._failed(message, received, error)
            elif self._applied:
                self._done(message, received, "applied")
            else:
                self._done(message, received, "skipped")
        finally:
            self.busy = False

    async def _failed(self, message: Message, received: Received, error: Exception) -> None:
        patience = self._troubles.setdefault(received.place, Patience(self.router.retries))
        if patience.lasts(error):
            await self._again(patience, received, error)
            return
        try:
            await asyncio.to_thread(self._dead_letters.put, received, error, patience.tries)
        except Exception as failure:
            log.warning("dead_letter_waits", place=received.place, why=str(failure))
            await self._again(patience, received, failure)
            return
        self._done(message, received, "rejected")

    def _done(self, message: Message, received: Received, outcome: str) -> None:
        self._troubles.pop(received.place, None)
        self.router.count(received.topic, outcome)
        if self.client is not None:
            self.client.commit_own(message)

    async def _again(self, patience: Patience, received: Received, error: Exception) -> None:
        delay = patience.delay()
        self.router.count(received.topic, "retried")
        log.warning(
            "event_retried",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            tries=patience.tries,
            again_in_s=round(delay, 2),
            why=f"{type(error).__name__}: {error}",
        )
        # Rewound before the wait: had the consumer to stop meanwhile, the message is still the next one.
        if self.client is not None:
            # Suppressed: the partition went to another replica, and the message with it.
            with contextlib.suppress(KafkaException, RuntimeError):
                await self.client.seek(self._kafka.topic(received.topic), received.partition, received.offset)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self.stopping.wait()


class _Settle(BaseMiddleware[Any, Any]):
    """Settles a message around everything that FastStream does with it, so that no failure of its own
    passes a message over either.
    """

    def __init__(self, message: Any, /, *, context: Any, group: GroupConsumer) -> None:
        super().__init__(message, context=context)
        self._group = group

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        if exc_val is not None and not isinstance(exc_val, Exception):
            return False  # cancelled: the message stays uncommitted
        await self._group.settle(self.msg, exc_val)
        return True


async def _undecoded(message: KafkaMessage) -> Any:
    return message.body
