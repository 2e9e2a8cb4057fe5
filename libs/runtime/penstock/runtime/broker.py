"""The control plane: FastStream over Kafka, with mends for what it does not do by itself.

Each mend is tested by causing its failure against a real broker:

* FastStream commits the stored offset, which may cover a message still in its handler. Here a message's own offset is committed, after it
  was applied, rejected or skipped, and never before.
* It hides a consumer's fatal errors. Here they end the control plane with ConsumerFailed, and so does a consumer that stands still.
* Its acknowledgement policies lose a failing message or repeat it for ever. Here it is retried in order, then becomes a dead letter that
  Kafka has acknowledged before the original is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from faststream import AckPolicy, BaseMiddleware
from faststream._internal.utils.functions import run_in_executor
from faststream.confluent import KafkaBroker, KafkaMessage
from faststream.confluent.helpers import AsyncConfluentConsumer
from faststream.confluent.message import FAKE_CONSUMER

from penstock.contracts.errors import PenstockError
from penstock.contracts.topics import DAY_MS, Topic, dead_letter_topic
from penstock.runtime.backoff import Backoff
from penstock.runtime.cloud_events import Received, headers_of, receive
from penstock.runtime.outbox import Relay
from penstock.runtime.readiness import Readiness
from penstock.runtime.replay import Replay
from penstock.runtime.router import Retries, Router, may_pass
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.runtime.topics import ensure_topics

__all__ = ["ConsumerFailed", "ControlPlane", "Retries", "Router"]

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""A poll returns at once when a message comes; longer polls only make an idle service idler, and stopping up to this slower."""
SESSION_MS = 6_000
"""A killed replica's partitions go to another after this."""
DELIVERY_MS = 10_000
"""A publish that is not acknowledged by then fails, and is tried again by whoever wanted it."""
DEAD_LETTERS_MS = 90 * DAY_MS


class ConsumerFailed(PenstockError):
    """A consumer that will not work again in this process. The service exits and its supervisor starts it anew."""


class ControlPlane:
    """All of a service's control events: its routers' consumers, their replays, and the relay of its outbox."""

    watch_every_s = 30.0
    stalled_after_s = 120.0
    subscriber_options: Mapping[str, Any] = MappingProxyType({})
    """More for FastStream's `subscriber`."""

    def __init__(
        self,
        service: str,
        kafka: KafkaSettings,
        routers: Sequence[Router],
        *,
        store: Store | None = None,
        replica: str = "0",
        readiness: Readiness | None = None,
    ) -> None:
        self.service = service
        self.kafka = kafka
        self.routers = routers
        self.store = store
        self.readiness = readiness or Readiness(lambda: datetime.now(UTC))
        self._owner = f"{service}/{replica}"
        self._consumers: dict[int, _GroupConsumer] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._replay: Replay | None = None
        self._down = asyncio.Event()

    async def run(self) -> None:
        """From start to cancellation. Works through Kafka's absence; raises ConsumerFailed when only a new process helps."""
        try:
            await self.start()
            await self._failed
        finally:
            await self.stop()

    async def start(self) -> None:
        """Returns at once, whether Kafka is there or not."""
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._failed.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.broker = self._make_broker()
        for router in self.routers:
            if router.handlers:
                self._subscribe(router)
        await self.broker.start()
        self._poll_slower()
        if replayed := {topic for router in self.routers for topic in router.replayed_topics}:
            self._replay = Replay(
                self.kafka, replayed, name=f"{self._owner}/replay", apply=self._replayed, caught_up=self._caught_up, failed=self.fail
            )
            await self._replay.start()
        if self.store is not None:
            self._begin(Relay(self.store, self.publish_row, owner=self._owner).run(), "relay")
        self._begin(self._watch_kafka(), "kafka")
        self._begin(self._watch_progress(), "progress")

    async def stop(self) -> None:
        """Stops consuming, finishes the message in hand, flushes. What is in the outbox stays there for the next start."""
        for consumer in self._consumers.values():
            consumer.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._replay is not None:
            await self._replay.stop()
        with contextlib.suppress(AttributeError):  # never started
            self._purge()
            await self.broker.stop()
        self._consumers.clear()
        self._tasks.clear()

    def fail(self, reason: str) -> None:
        """Ends `run` with ConsumerFailed."""
        if not self._failed.done():
            self._failed.set_exception(ConsumerFailed(reason, where=self.service, remedy="The supervisor starts the service again"))

    async def publish_row(self, row: OutboxRow) -> None:
        """Returns once Kafka has acknowledged it. Raises KafkaException when it has not within ten seconds."""
        headers = headers_of(
            event_id=row.event_id,
            source=f"/penstock/{self.service}",
            event_type=row.event_type,
            time=row.occurred_at,
            subject=row.key,
            traceparent=row.traceparent,
        )
        await self.broker.publish(row.value, topic=self.kafka.topic(row.topic), key=row.key, headers=headers)

    # -- wiring --------------------------------------------------------------------------------------------------------------------

    def _make_broker(self) -> KafkaBroker:
        client = self.kafka.client()
        broker = KafkaBroker(
            client.pop("bootstrap.servers"),
            config={  # type: ignore[arg-type]  # a plain dict of librdkafka's names
                **client,
                "client.id": f"penstock.{self._owner}",
                "message.timeout.ms": DELIVERY_MS,
                "topic.metadata.refresh.interval.ms": 30_000,
                "error_cb": self._client_error,
            },
            client_id=f"penstock.{self._owner}",
            allow_auto_create_topics=False,
            enable_idempotence=True,
            acks="all",
            partitioner="murmur2_random",
            graceful_timeout=10.0,
            logger=None,
            middlewares=(self._settle,),
        )
        broker.config.broker_config.builder = self._build_consumer
        return broker

    def _subscribe(self, router: Router) -> None:
        subscriber = self.broker.subscriber(
            *map(self.kafka.topic, router.topics),
            group_id=self.kafka.topic(router.group),
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            polling_interval=POLL_S,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 3,
            parser=_unparsed,
            decoder=_undecoded,
            **self.subscriber_options,
        )
        consumer = _GroupConsumer(self, router, subscriber)
        self._consumers[id(subscriber)] = consumer
        subscriber(consumer.handle)

    def _build_consumer(self, *topics: Any, **options: Any) -> _Consumer:
        config = self.broker.config.broker_config
        return _Consumer(
            *topics,
            config=config.connection_config,
            admin_service=config.admin,
            logger=config.logger,
            on_error=self._consumer_error,
            **options,
        )

    def _settle(self, message: Any, /, *, context: Any) -> _Settle:
        return _Settle(message, context=context, consumers=self._consumers)

    def _begin(self, work: Any, name: str) -> None:
        async def supervised() -> None:
            try:
                await work
            except Exception as error:
                log.exception("control_plane_task_failed", task=name)
                self.fail(f"{name}: {error}")

        self._tasks.append(asyncio.create_task(supervised(), name=f"control-plane/{name}"))

    def _poll_slower(self) -> None:
        """FastStream asks its producer ten times a second for acknowledgements, half of an idle service's work. A poll ends when one comes."""
        native = self.broker.config.producer._producer.producer  # type: ignore[attr-defined]
        native._poll_task.cancel()

        async def poll() -> None:
            while True:
                await asyncio.to_thread(native.producer.poll, POLL_S)

        native._poll_task = asyncio.create_task(poll())

    def _purge(self) -> None:
        """Whatever is still unacknowledged is durable elsewhere: an outbox row, or the uncommitted original of a dead letter."""
        with contextlib.suppress(Exception):
            self.broker.config.producer._producer.producer.producer.purge()  # type: ignore[attr-defined]

    # -- replays -------------------------------------------------------------------------------------------------------------------

    async def _replayed(self, received: Received) -> None:
        for router in self.routers:
            await router.replay(received)

    def _caught_up(self, topic: str) -> None:
        for router in self.routers:
            router.mark_caught_up(topic)

    # -- watches -------------------------------------------------------------------------------------------------------------------

    def _client_error(self, error: KafkaError) -> None:
        """librdkafka's own errors, from any of its threads."""
        if error.fatal():
            self._loop.call_soon_threadsafe(self.fail, f"Kafka client: {error.str()}")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._loop.call_soon_threadsafe(self._down.set)

    def _consumer_error(self, error: KafkaError) -> None:
        """What a poll returned instead of a message; FastStream drops these."""
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            self.fail(f"Kafka consumer: {error.str()}")
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            log.info("topic_missing", why=error.str())
        else:
            log.warning("consumer_trouble", code=error.name(), why=error.str())

    async def _watch_kafka(self) -> None:
        """Readiness: waits for a broker at start, and again whenever the client loses all of them."""
        delay = Backoff(first=0.1, longest=5.0)
        tries = 0
        while True:
            self._down.clear()
            if await self.broker.ping(timeout=2.0):
                self.readiness.has("kafka")
                delay.reset()
                tries = 0
                await self._down.wait()
            else:
                tries += 1
                self.readiness.waits_for("kafka", f"{self.kafka.bootstrap_servers} does not answer, {tries} tries")
                await asyncio.sleep(delay.next())

    async def _watch_progress(self) -> None:
        """A consumer that has messages before it and takes none, with an idle handler, is broken in a way that it does not report."""
        seen: dict[tuple[str, str, int], tuple[int, float]] = {}
        while True:
            await asyncio.sleep(self.watch_every_s)
            for consumer in self._consumers.values():
                for topic, partition, position, lag in await asyncio.to_thread(consumer.lags):
                    key = (consumer.router.group, topic, partition)
                    known, since = seen.get(key, (-1, 0.0))
                    if position != known or lag == 0 or consumer.busy:
                        seen[key] = (position, time.monotonic())
                    elif time.monotonic() - since > self.stalled_after_s:
                        self.fail(f"{topic}/{partition}: {lag} messages wait and none is taken")


@dataclass
class _Trouble:
    """A message that failed: which, since when, and how often."""

    offset: int
    since: float
    backoff: Backoff
    tries: int = 0


@dataclass
class _GroupConsumer:
    """One router's consumer: decides for each message whether it is committed, comes again, or becomes a dead letter."""

    plane: ControlPlane
    router: Router
    subscriber: Any
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    busy: bool = False
    troubles: dict[tuple[str, int], _Trouble] = field(default_factory=dict)
    rejected: int = 0
    """In a row."""
    dead_letter_topics: set[str] = field(default_factory=set)

    async def handle(self, message: KafkaMessage) -> None:
        self.busy = True
        try:
            await self.router.handle(receive(message.raw_message, self.plane.kafka.topic_prefix))  # type: ignore[arg-type]  # no batches
        finally:
            self.busy = False

    async def settle(self, message: Message, error: Exception | None) -> None:
        """After a message was handled. Raises nothing: what cannot be settled now comes again."""
        received = receive(message, self.plane.kafka.topic_prefix)
        place = (received.topic, received.partition)
        if error is None:
            self.troubles.pop(place, None)
            self.rejected = 0
            self._commit(message)
            return
        trouble = self.troubles.get(place)
        if trouble is None or trouble.offset != received.offset:
            limits = self.router.retries
            trouble = _Trouble(received.offset, time.monotonic(), Backoff(first=limits.first, longest=limits.longest))
            self.troubles[place] = trouble
        trouble.tries += 1
        if may_pass(error) and time.monotonic() - trouble.since < self.router.retries.patience:
            await self._again(message, trouble, received, error)
            return
        try:
            await self._dead_letter(message, received, error, trouble)
        except Exception as failure:
            log.warning("dead_letter_waits", place=received.place, why=str(failure))
            await self._again(message, trouble, received, failure)
            return
        self.troubles.pop(place, None)
        self._commit(message)
        self.rejected += 1
        if self.rejected >= self.router.retries.rejects_in_a_row:
            self._halt(f"{self.rejected} dead letters in a row, the last: {error}")

    async def _again(self, message: Message, trouble: _Trouble, received: Received, error: Exception) -> None:
        delay = trouble.backoff.next()
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
        with contextlib.suppress(KafkaException, RuntimeError):  # the partition went to another replica, and the message with it
            await self.subscriber.consumer.seek(message.topic(), message.partition(), message.offset())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self.stopping.wait()

    async def _dead_letter(self, message: Message, received: Received, error: Exception, trouble: _Trouble) -> None:
        """Returns once Kafka has acknowledged the dead letter."""
        topic = dead_letter_topic(received.topic, self.router.group)
        if topic not in self.dead_letter_topics:
            await asyncio.to_thread(ensure_topics, self.plane.kafka, [_dead_letters(topic, received.topic, self.plane.service)])
            self.dead_letter_topics.add(topic)
        headers = received.headers | {
            "dlq-topic": received.topic,
            "dlq-partition": str(received.partition),
            "dlq-offset": str(received.offset),
            "dlq-group": self.router.group,
            "dlq-error": error.kind.value if isinstance(error, PenstockError) else type(error).__name__,
            "dlq-reason": str(error)[:1000],
            "dlq-tries": str(trouble.tries),
            "dlq-time": datetime.now(UTC).isoformat(),
        }
        await self.plane.broker.publish(
            message.value() if message.value() is not None else b"", topic=self.plane.kafka.topic(topic), key=message.key(), headers=headers
        )
        log.error(
            "event_rejected",
            place=received.place,
            event_id=received.event_id,
            event_type=received.event_type,
            dead_letter=topic,
            why=f"{type(error).__name__}: {error}",
            exc_info=None if isinstance(error, PenstockError) else error,
        )

    def _commit(self, message: Message) -> None:
        """This message's own offset and no other. Lost with a crash or an outage: the inbox knows the message when it comes again."""
        with contextlib.suppress(KafkaException, RuntimeError, AttributeError):  # closed, or revoked meanwhile
            self.subscriber.consumer.consumer.commit(message=message, asynchronous=True)

    def _halt(self, why: str) -> None:
        log.error("consumer_halted", group=self.router.group, why=why)
        self.plane.readiness.waits_for("dead letters", f"{why}. Repair the cause and start the service again")
        self.plane._begin(self.subscriber.stop(), "halt")

    def lags(self) -> list[tuple[str, int, int, int]]:
        """(topic, partition, position, messages before it) of what is assigned. Blocks for a round trip; empty while Kafka is away."""
        if self.subscriber.consumer is None:
            return []
        raw = self.subscriber.consumer.consumer
        try:
            found = []
            for held in raw.position(raw.assignment()):
                _, end = raw.get_watermark_offsets(TopicPartition(held.topic, held.partition), timeout=5.0)
                if held.offset >= 0:
                    found.append((held.topic, held.partition, held.offset, max(0, end - held.offset)))
            return found
        except (KafkaException, RuntimeError):
            return []


class _Settle(BaseMiddleware[Any, Any]):
    """Around everything that FastStream does with a message, so that no failure of its own passes a message over either."""

    def __init__(self, message: Any, /, *, context: Any, consumers: dict[int, _GroupConsumer]) -> None:
        super().__init__(message, context=context)
        self._consumers = consumers

    async def after_processed(
        self, exc_type: type[BaseException] | None = None, exc_val: BaseException | None = None, exc_tb: TracebackType | None = None
    ) -> bool:
        if exc_val is not None and not isinstance(exc_val, Exception):
            return False  # cancelled: the message stays uncommitted
        await self._consumers[id(self.context.get("handler_"))].settle(self.msg, exc_val)
        return True


class _Consumer(AsyncConfluentConsumer):
    """FastStream's consumer, but an error that a poll returns is told."""

    __slots__ = ("_on_error",)

    def __init__(self, *topics: Any, on_error: Callable[[KafkaError], None], **options: Any) -> None:
        super().__init__(*topics, **options)
        self._on_error = on_error

    async def getone(self, timeout: float = POLL_S) -> Message | None:  # noqa: ASYNC109  FastStream's signature
        message = await run_in_executor(self._thread_pool, self.consumer.poll, timeout)
        if message is not None and (error := message.error()) is not None:
            self._on_error(error)
            return None
        return message


async def _unparsed(message: Message) -> KafkaMessage:
    """FastStream's own parser fails on a header that is no UTF-8."""
    return KafkaMessage(body=message.value() or b"", raw_message=message, consumer=FAKE_CONSUMER, is_manual=True)


async def _undecoded(message: KafkaMessage) -> Any:
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
