"""The control plane: FastStream over Kafka, with mends for what it does not do by itself.

Each mend is tested by causing its failure against a real broker:

* FastStream commits the stored offset, which may cover a message still in its handler. Here a
  message's own offset is committed, after it was applied, rejected or skipped, and never before.
* It hides a consumer's fatal errors. Here they end the control plane with ClientFailed, and so
  does a consumer that stands still.
* Its acknowledgement policies lose a failing message or repeat it for ever. Here it is retried in
  order, then becomes a dead letter that Kafka has acknowledged before the original is committed.
* A group may leave a new topic to nobody (`assignment.py`). Here its members notice, and form it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from faststream import AckPolicy
from faststream.confluent import KafkaBroker

from penstock.contracts import metrics
from penstock.contracts.errors import Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.cloud_events import Received, headers_of
from penstock.runtime.consumer import GroupConsumer, Settle, TellingConsumer, undecoded, unparsed
from penstock.runtime.kafka.assignment import Assignment
from penstock.runtime.kafka.progress import Progress
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.metrics import observed
from penstock.runtime.outbox import Relay
from penstock.runtime.readiness import Readiness
from penstock.runtime.replay import Replay
from penstock.runtime.router import Retries, Router
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow

__all__ = ["ControlPlane", "Retries", "Router"]

log = structlog.get_logger(__name__)

POLL_S = 1.0
"""A poll returns at once when a message comes; longer polls only make an idle service idler, and
stopping up to this slower.
"""
SESSION_MS = 6_000
"""A killed replica's partitions go to another after this."""
DELIVERY_MS = 10_000
"""A publish that is not acknowledged by then fails, and is tried again by whoever wanted it.
Shorter than `outbox.IN_FLIGHT`.
"""
FLUSH_S = 2.0
ANSWERS_WITHIN_S = 60.0
"""A consumer's client says by then where it is, or is broken."""
REMEMBER = timedelta(days=90)
"""How long the inbox knows an event. Kafka forgets a group's position after seven days away; then
all of a topic comes again.
"""
KEEP_HOUSE_EVERY_S = 6 * 3600.0


class ControlPlane:
    """All of a service's control events: its routers' consumers, their replays, and the relay of
    its outbox.
    """

    watch_every_s = 15.0
    stalled_looks = 4
    look_at_groups_every_s = 30.0
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
        self.consumers: list[GroupConsumer] = []
        self._owner = f"{service}/{replica}"
        self._by_subscriber: dict[int, GroupConsumer] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._replay: Replay | None = None
        self._relay: Relay | None = None
        self._down = asyncio.Event()

    async def run(self) -> None:
        """From start to cancellation. Works through Kafka's absence; raises ClientFailed when
        only a new process helps.
        """
        await self.start()
        try:
            with observed(
                metrics.LAG, lambda: [reading for consumer in self.consumers for reading in consumer.behind]
            ):
                await self._failed
        finally:
            await self.stop()

    async def start(self) -> None:
        """Returns at once, whether Kafka is there or not."""
        self.readiness.waits_for("kafka", "connecting")
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
                self.kafka,
                replayed,
                name=f"{self._owner}/replay",
                group=f"penstock.{self.service}",
                apply=self._replayed,
                caught_up=self._caught_up,
                failed=self.fail,
            )
            await self._replay.start()
        if self.store is not None:
            self._relay = Relay(self.store, self.publish_row, owner=self._owner)
            self._begin(self._relay.run(), "relay")
            self._begin(self._keep_house(self.store), "house")
        self._begin(self._watch_kafka(), "kafka")
        self._begin(self._watch_progress(), "progress")
        self._begin(self._watch_groups(), "groups")

    async def stop(self) -> None:
        """Stops consuming, finishes the message in hand, flushes for a moment. What is in the
        outbox stays there for the next start.
        """
        for consumer in self.consumers:
            consumer.stopping.set()
        await asyncio.gather(
            *(consumer.subscriber.stop() for consumer in self.consumers), return_exceptions=True
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._replay is not None:
            await self._replay.stop()
        if self._relay is not None and not self._down.is_set():
            with contextlib.suppress(TimeoutError, KafkaException, Unavailable):
                async with asyncio.timeout(FLUSH_S):
                    while await self._relay.drain():
                        pass
                    await self._relay.resign()
        self._purge()
        await self.broker.stop()

    def fail(self, reason: str) -> None:
        """Ends `run` with ClientFailed."""
        if not self._failed.done():
            self._failed.set_exception(
                ClientFailed(reason, where=self.service, remedy="The supervisor starts the service again")
            )

    async def publish_row(self, row: OutboxRow) -> None:
        """Returns once Kafka has acknowledged it. Raises KafkaException when it has not within ten
        seconds.
        """
        headers = headers_of(
            event_id=row.event_id,
            source=f"/penstock/{self.service}",
            event_type=row.event_type,
            time=row.occurred_at,
            subject=row.key,
            traceparent=row.traceparent,
        )
        await self._send(self.kafka.topic(row.topic), key=row.key, value=row.value, headers=headers)

    async def _send(
        self, topic: str, *, key: bytes | str | None, value: bytes, headers: dict[str, str]
    ) -> None:
        await self.broker.publish(value, topic=topic, key=key, headers=headers)

    # -- wiring ------------------------------------------------------------------------------------

    def _make_broker(self) -> KafkaBroker:
        client = self.kafka.client()
        if protocol := client.get("security.protocol"):
            client["security.protocol"] = (
                protocol.lower()
            )  # FastStream knows librdkafka's lower-case names alone
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
        consumer = GroupConsumer(
            router, self.kafka, service=self.service, send=self._send, halted=self._halted
        )
        subscriber = self.broker.subscriber(
            *map(self.kafka.topic, router.topics),
            group_id=self.kafka.topic(router.group),
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            polling_interval=POLL_S,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 3,
            parser=unparsed,
            decoder=undecoded,
            **self.subscriber_options,
        )
        consumer.subscriber = subscriber
        subscriber(consumer.handle)
        self.consumers.append(consumer)
        self._by_subscriber[id(subscriber)] = consumer

    def _build_consumer(self, *topics: Any, **options: Any) -> TellingConsumer:
        made = self.broker.config.broker_config
        return TellingConsumer(
            *topics,
            config=made.connection_config,
            admin_service=made.admin,
            logger=made.logger,
            on_error=self._consumer_error,
            **options,
        )

    def _settle(self, message: Any, /, *, context: Any) -> Settle:
        return Settle(message, context=context, consumers=self._by_subscriber)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def supervised() -> None:
            try:
                await work
            except Exception as error:
                log.exception("control_plane_task_failed", task=name)
                self.fail(f"{name}: {error}")

        self._tasks.append(asyncio.create_task(supervised(), name=f"control-plane/{name}"))

    def _poll_slower(self) -> None:
        """FastStream asks its producer ten times a second for acknowledgements, half of an idle
        service's work.
        """
        native = self.broker.config.producer._producer.producer  # type: ignore[attr-defined]
        native._poll_task.cancel()

        async def poll() -> None:
            while True:
                await asyncio.to_thread(native.producer.poll, POLL_S)

        native._poll_task = asyncio.create_task(poll())

    def _purge(self) -> None:
        """Whatever is still unacknowledged is durable elsewhere: an outbox row, or the uncommitted
        original of a dead letter.
        """
        self.broker.config.producer._producer.producer.producer.purge()  # type: ignore[attr-defined]

    # -- events out of its parts -------------------------------------------------------------------

    async def _replayed(self, received: Received) -> None:
        for router in self.routers:
            await router.replay(received)

    def _caught_up(self, topic: str) -> None:
        for router in self.routers:
            router.mark_caught_up(topic)

    def _halted(self, consumer: GroupConsumer, why: str) -> None:
        """The service stays up, not ready, for a person to look at: a restart would only make more
        dead letters.
        """
        log.error("consumer_halted", group=consumer.router.group, why=why)
        self.readiness.waits_for("dead letters", f"{why}. Repair the cause and start the service again")
        self._begin(consumer.subscriber.stop(), "halt")

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

    # -- watches -----------------------------------------------------------------------------------

    async def _watch_kafka(self) -> None:
        """Readiness: waits for a broker at start, and again whenever the client loses all of them."""
        delay = Backoff(first=0.1, longest=5.0)
        tries = 0
        while True:
            if await self.broker.ping(timeout=2.0):
                self._down.clear()
                self.readiness.has("kafka")
                delay.reset()
                tries = 0
                await self._down.wait()
            else:
                tries += 1
                self._down.set()
                self.readiness.waits_for(
                    "kafka", f"{self.kafka.bootstrap_servers} does not answer, {tries} tries"
                )
                await asyncio.sleep(delay.next())

    async def _watch_progress(self) -> None:
        """A consumer that has messages before it and takes none, with an idle handler, is broken in
        a way that it does not report.
        """
        watched = [(consumer, Progress(self.stalled_looks)) for consumer in self.consumers]
        while True:
            await asyncio.sleep(self.watch_every_s)
            for consumer, progress in watched:
                try:
                    async with asyncio.timeout(ANSWERS_WITHIN_S):
                        positions = await consumer.positions()
                except TimeoutError:
                    self.fail(f"{consumer.router.group}: the consumer does not answer")
                    continue
                for stalled in progress.look(positions, busy=consumer.busy):
                    self.fail(
                        f"{stalled.topic}/{stalled.partition}: {stalled.lag} messages wait and none is taken"
                    )

    async def _watch_groups(self) -> None:
        """A group that leaves out a partition is formed anew."""
        watched = [(consumer, Assignment(self.kafka, consumer.router.group)) for consumer in self.consumers]
        while True:
            await asyncio.sleep(self.look_at_groups_every_s)
            for consumer, assignment in watched:
                left_out = await asyncio.to_thread(assignment.look, consumer.router.topics)
                if left_out and consumer.joined:
                    log.warning("partitions_left_out", group=consumer.router.group, partitions=left_out)
                    await consumer.join_anew()

    async def _keep_house(self, store: Store) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                forgotten = await store.write(lambda effect: effect.forget(REMEMBER))
                log.debug("old_rows_forgotten", rows=forgotten)
            await asyncio.sleep(KEEP_HOUSE_EVERY_S)
