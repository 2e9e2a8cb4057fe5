"""One group's consumer: after each message it is decided whether it is committed, comes again, or
becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from faststream import BaseMiddleware
from faststream._internal.utils.functions import run_in_executor
from faststream.confluent import KafkaMessage
from faststream.confluent.helpers import AsyncConfluentConsumer
from faststream.confluent.message import FAKE_CONSUMER

from penstock.contracts.errors import PenstockError
from penstock.contracts.topics import DAY_MS, MESSAGE_BYTES, Topic, dead_letter_topic
from penstock.runtime.backoff import Backoff
from penstock.runtime.cloud_events import Received, receive
from penstock.runtime.database import DatabaseAway
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.progress import Position
from penstock.runtime.messaging import DESTINATION, GROUP
from penstock.runtime.metrics import Reading
from penstock.runtime.router import Router, may_pass
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

DEAD_LETTERS_MS = 90 * DAY_MS
ANSWER_S = 2.0


class Send(Protocol):
    """Publishes and returns once Kafka has acknowledged."""

    def __call__(
        self, topic: str, *, key: bytes | str | None, value: bytes, headers: dict[str, str]
    ) -> Awaitable[None]: ...


@dataclass
class _Trouble:
    """A message that failed: which, since when, and how often."""

    offset: int
    since: float
    backoff: Backoff
    tries: int = 0


class GroupConsumer:
    """What happens to one router's messages. Its FastStream subscriber is set right after it is made."""

    subscriber: Any

    def __init__(
        self,
        router: Router,
        kafka: KafkaSettings,
        *,
        service: str,
        send: Send,
        halted: Callable[[GroupConsumer, str], None],
    ) -> None:
        self.router = router
        self.busy = False
        """With a message: in its handler, or waiting before it is tried again."""
        self.stopping = asyncio.Event()
        self._kafka = kafka
        self._service = service
        self._send = send
        self._halted = halted
        self._applied = False
        self._troubles: dict[tuple[str, int], _Trouble] = {}
        self._rejected_in_a_row = 0
        self._dead_letter_topics: set[str] = set()
        self._behind: dict[str, int] = {}
        for topic in router.topics:
            for outcome in (
                "applied",
                "retried",
                "rejected",
            ):  # a first one is seen as a rise, not as a beginning
                router.count(topic, outcome, 0)

    async def handle(self, message: KafkaMessage) -> None:
        """FastStream's handler for every message of the group."""
        self.busy, self._applied = True, False
        self._applied = await self.router.handle(receive(message.raw_message, self._kafka.topic_prefix))  # type: ignore[arg-type]

    async def settle(self, message: Message, error: Exception | None) -> None:
        """After a message was handled. Raises nothing: what cannot be settled now comes again."""
        try:
            await self._settle(message, error)
        finally:
            self.busy = False

    async def _settle(self, message: Message, error: Exception | None) -> None:
        received = receive(message, self._kafka.topic_prefix)
        place = (received.topic, received.partition)
        if error is None:
            self._troubles.pop(place, None)
            self.router.count(received.topic, "applied" if self._applied else "skipped")
            if self._applied:
                self._rejected_in_a_row = 0
            self._commit(message)
            return
        trouble = self._trouble(place, received.offset)
        if isinstance(error, DatabaseAway):
            trouble.since = time.monotonic()  # nothing can be applied meanwhile, this message or another
        if may_pass(error) and time.monotonic() - trouble.since < self.router.retries.patience:
            await self._again(message, trouble, received, error)
            return
        try:
            await self._dead_letter(message, received, error, trouble)
        except Exception as failure:
            log.warning("dead_letter_waits", place=received.place, why=str(failure))
            await self._again(message, trouble, received, failure)
            return
        self._troubles.pop(place, None)
        self.router.count(received.topic, "rejected")
        self._commit(message)
        self._rejected_in_a_row += 1
        if self._rejected_in_a_row >= self.router.retries.rejects_in_a_row:
            self._halted(self, f"{self._rejected_in_a_row} dead letters in a row, the last: {error}")

    async def join_anew(self) -> None:
        """The group is formed again. A message in hand is settled first; one that is being tried
        again goes to who gets its partition.
        """
        consumer = self.subscriber.consumer
        with contextlib.suppress(RuntimeError):  # it is being closed
            await run_in_executor(
                consumer._thread_pool, consumer.consumer.unsubscribe
            )  # to subscribe to the same once more does not do it
            await consumer.start()

    @property
    def joined(self) -> bool:
        return self.subscriber.consumer is not None

    @property
    def behind(self) -> list[Reading]:
        """Messages before the group, by topic, as `positions` found last."""
        return [
            (float(lag), {DESTINATION: topic, GROUP: self.router.group})
            for topic, lag in self._behind.items()
        ]

    async def positions(self) -> list[Position]:
        """Of what is assigned, by the thread that polls: FastStream uses the client from no other.
        Empty while Kafka is away.
        """
        if not self.joined:
            return []
        consumer = self.subscriber.consumer
        try:
            return await run_in_executor(consumer._thread_pool, self._positions, consumer.consumer)
        except (KafkaException, RuntimeError):  # RuntimeError: closed meanwhile
            return []

    def _positions(self, raw: Any) -> list[Position]:
        found: list[Position] = []
        behind = dict.fromkeys(self.router.topics, 0)
        for held in raw.position(raw.assignment()):
            low, end = raw.get_watermark_offsets(TopicPartition(held.topic, held.partition), timeout=ANSWER_S)
            offset = held.offset if held.offset >= 0 else self._begins_at(raw, held, low)
            found.append(Position(held.topic, held.partition, offset, max(0, end - offset)))
            behind[held.topic.removeprefix(self._kafka.topic_prefix)] += found[-1].lag
        self._behind = behind
        return found

    @staticmethod
    def _begins_at(raw: Any, held: TopicPartition, low: int) -> int:
        """Where a consumer that has taken no message yet begins."""
        (committed,) = raw.committed([TopicPartition(held.topic, held.partition)], timeout=ANSWER_S)
        offset: int = committed.offset
        return max(offset, low)

    def _trouble(self, place: tuple[str, int], offset: int) -> _Trouble:
        trouble = self._troubles.get(place)
        if trouble is None or trouble.offset != offset:
            retries = self.router.retries
            trouble = self._troubles[place] = _Trouble(
                offset, time.monotonic(), Backoff(first=retries.first, longest=retries.longest)
            )
        trouble.tries += 1
        return trouble

    async def _again(self, message: Message, trouble: _Trouble, received: Received, error: Exception) -> None:
        delay = trouble.backoff.next()
        self.router.count(received.topic, "retried")
        log.warning(
            "event_retried",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            tries=trouble.tries,
            again_in_s=round(delay, 2),
            why=f"{type(error).__name__}: {error}",
        )
        # Rewound before the wait: had the consumer to stop meanwhile, the message is still the next one.
        with contextlib.suppress(
            KafkaException, RuntimeError
        ):  # the partition went to another replica, and the message with it
            await self.subscriber.consumer.seek(message.topic(), message.partition(), message.offset())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self.stopping.wait()

    async def _dead_letter(
        self, message: Message, received: Received, error: Exception, trouble: _Trouble
    ) -> None:
        """Returns once Kafka has acknowledged the dead letter."""
        name = dead_letter_topic(received.topic, self.router.group)
        if name not in self._dead_letter_topics:
            await asyncio.to_thread(
                ensure_topics, self._kafka, [_dead_letters(name, received.topic, self._service)]
            )
            self._dead_letter_topics.add(name)
        key, value, own = message.key(), message.value() or b"", received.headers
        size = (
            len(key or b"") + len(value) + sum(len(name) + len(text.encode()) for name, text in own.items())
        )
        if (
            size > MESSAGE_BYTES
        ):  # with its reason Kafka would not take it; the event itself lies where it was
            key, value = None, b""
            own = {name: own[name][:100] for name in ("ce_id", "ce_type") if name in own} | {
                "dlq-left-out": str(size)
            }
        headers = own | {
            "dlq-topic": received.topic,
            "dlq-partition": str(received.partition),
            "dlq-offset": str(received.offset),
            "dlq-group": self.router.group,
            "dlq-error": error.kind.value if isinstance(error, PenstockError) else type(error).__name__,
            "dlq-reason": str(error)[:1000],
            "dlq-tries": str(trouble.tries),
            "dlq-time": datetime.now(UTC).isoformat(),
        }
        await self._send(self._kafka.topic(name), key=key, value=value, headers=headers)
        log.error(
            "event_rejected",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            dead_letter=name,
            why=f"{type(error).__name__}: {error}",
            exc_info=None if isinstance(error, PenstockError) else error,
        )

    def _commit(self, message: Message) -> None:
        """This message's own offset and no other. Lost with a crash or an outage: the inbox knows
        the message when it comes again.
        """
        with contextlib.suppress(
            KafkaException, RuntimeError, AttributeError
        ):  # closed, or revoked meanwhile
            self.subscriber.consumer.consumer.commit(message=message, asynchronous=True)


class Settle(BaseMiddleware[Any, Any]):
    """Around everything that FastStream does with a message, so that no failure of its own passes a
    message over either.
    """

    def __init__(self, message: Any, /, *, context: Any, consumers: dict[int, GroupConsumer]) -> None:
        super().__init__(message, context=context)
        self._consumers = consumers

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        if exc_val is not None and not isinstance(exc_val, Exception):
            return False  # cancelled: the message stays uncommitted
        await self._consumers[id(self.context.get("handler_"))].settle(self.msg, exc_val)
        return True


class TellingConsumer(AsyncConfluentConsumer):
    """FastStream's consumer, but an error that a poll returns is told."""

    __slots__ = ("_on_error",)

    def __init__(self, *topics: Any, on_error: Callable[[KafkaError], None], **options: Any) -> None:
        super().__init__(*topics, **options)
        self._on_error = on_error

    async def getone(self, timeout: float = 0.1) -> Message | None:  # noqa: ASYNC109  FastStream's signature
        message = await run_in_executor(self._thread_pool, self.consumer.poll, timeout)
        if message is not None and (error := message.error()) is not None:
            self._on_error(error)
            return None
        return message


async def unparsed(message: Message) -> KafkaMessage:
    """FastStream's own parser fails on a header that is no UTF-8."""
    return KafkaMessage(
        body=message.value() or b"", raw_message=message, consumer=FAKE_CONSUMER, is_manual=True
    )


async def undecoded(message: KafkaMessage) -> Any:
    return message.body


def _dead_letters(name: str, original: str, service: str) -> Topic:
    return Topic(
        name,
        owner=service,
        consumers=("users",),
        key="as in the original",
        about=f"Events of {original} that could not be applied.",
        messages=("DeadLetter",),
        retention_ms=DEAD_LETTERS_MS,
    )
