"""The control plane: FastStream over Kafka, with mends for what it does not do by itself.

* A message's offset is committed after it was applied, rejected or skipped, and never before.
* What fails is retried in order of its key (`consumer.py`), then becomes a dead letter that Kafka has
  acknowledged before the original is committed (`dead_letters.py`).
* A consumer's fatal errors end the control plane with ClientFailed, and so does a consumer that
  stands still; a group that leaves a topic to nobody is formed anew (`watches.py`).

The tests in `test_runtime_control_plane*.py` cause each failure on a real broker. What FastStream does
instead, and what of its insides is touched for that, stands in `faststream_mends.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from faststream.confluent import KafkaBroker

from penstock.contracts import metrics
from penstock.contracts.errors import Unavailable
from penstock.runtime.cloud_events import headers_of
from penstock.runtime.consumer import GroupConsumer
from penstock.runtime.faststream_mends import install, poll_slower, purge
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.messaging import lag_readings
from penstock.runtime.metrics import Reading, observed
from penstock.runtime.outbox import Relay
from penstock.runtime.readiness import Readiness
from penstock.runtime.replay import Replay
from penstock.runtime.router import Retries, Router
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.runtime.watches import watch_groups, watch_kafka, watch_progress

__all__ = ["ControlPlane", "Retries", "Router"]

log = structlog.get_logger(__name__)

# A publish that is not acknowledged by then fails, and is tried again by whoever wanted it. Shorter
# than `outbox.IN_FLIGHT`.
DELIVERY_MS = 10_000
FLUSH_S = 2.0
# Time for which the inbox knows an event. Kafka forgets a group's position after seven days away;
# then all of a topic comes again.
REMEMBER = timedelta(days=90)
KEEP_HOUSE_EVERY_S = 6 * 3600.0


class ControlPlane:
    """Control events of a service, all of them: its routers' consumers, their replays, and the relay of
    its outbox.
    """

    watch_every_s = 15.0
    stalled_looks = 4
    look_at_groups_every_s = 30.0

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
        self._tasks: list[asyncio.Task[None]] = []
        self._down = asyncio.Event()

    async def run(self, after: Callable[[], Awaitable[None]] | None = None) -> None:
        """Runs from start to cancellation. No handler is given an event before `after` returns; replays
        and the relay do not wait for it.

        Works through Kafka's absence; raises ClientFailed when only a new process helps. At the end
        the message in hand is finished, and what is in the outbox stays there for the next start.
        """
        self.readiness.waits_for("kafka", "connecting")
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._failed.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.broker = self._make_broker()
        async with contextlib.AsyncExitStack() as stack:  # ends in the reverse order
            stack.push_async_callback(self.broker.stop)
            await self.broker.start()
            stack.callback(purge, self.broker)
            poll_slower(self.broker)
            if self.store is not None:
                relay = Relay(self.store, self.publish_row, owner=self._owner)
                stack.push_async_callback(self._flush, relay)
                self._begin(relay.run(), "relay")
                self._begin(self._keep_house(self.store), "house")
            if any(router.replays for router in self.routers):
                replay = Replay(
                    self.kafka, self.routers, self.readiness, service=self.service, owner=self._owner
                )
                self._begin(replay.run(), "replay")
            stack.push_async_callback(self._stop_consumers)
            kafka = watch_kafka(self.broker, self._down, self.readiness, self.kafka)
            self._begin(kafka, "kafka")
            self._begin(self._consume(after), "consumers")
            stack.enter_context(observed(metrics.LAG, self._behind))
            await self._failed

    async def _consume(self, after: Callable[[], Awaitable[None]] | None) -> None:
        if after is not None:
            await after()
        for router in self.routers:
            if router.handlers:
                await self._subscribe(router)
        self._begin(
            watch_progress(
                self.consumers,
                self.kafka,
                self.readiness,
                self.fail,
                every_s=self.watch_every_s,
                looks=self.stalled_looks,
            ),
            "progress",
        )
        self._begin(watch_groups(self.consumers, self.kafka, every_s=self.look_at_groups_every_s), "groups")

    def _behind(self) -> list[Reading]:
        groups = ((consumer.router.group, consumer.behind) for consumer in self.consumers)
        return [reading for group, lags in groups for reading in lag_readings(group, lags)]

    async def _stop_consumers(self) -> None:
        await asyncio.gather(*(consumer.stop() for consumer in self.consumers), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _flush(self, relay: Relay) -> None:
        """Publishes what waits, for a moment."""
        if not self._down.is_set():
            with contextlib.suppress(TimeoutError, KafkaException, Unavailable):
                async with asyncio.timeout(FLUSH_S):
                    while await relay.drain():
                        pass
                    await relay.resign()

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
        await self.broker.publish(row.value, self.kafka.topic(row.topic), key=row.key, headers=headers)

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
        )
        install(broker, self._consumer_error)
        return broker

    async def _subscribe(self, router: Router) -> None:
        consumer = GroupConsumer(router, self.kafka, self.readiness)
        self.broker.include_router(consumer.routes)
        self.consumers.append(consumer)
        await consumer.subscriber.start()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def supervised() -> None:
            try:
                await work
            except Exception as error:
                log.exception("control_plane_task_failed", task=name)
                self.fail(f"{name}: {error}")

        self._tasks.append(asyncio.create_task(supervised(), name=f"control-plane/{name}"))

    # -- what its parts report ---------------------------------------------------------------------

    def _client_error(self, error: KafkaError) -> None:
        """librdkafka's own errors, from any of its threads."""
        if error.fatal():
            self._loop.call_soon_threadsafe(self.fail, f"Kafka client: {error.str()}")
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._loop.call_soon_threadsafe(self._down.set)

    def _consumer_error(self, error: KafkaError) -> None:
        """Error that a poll returned instead of a message; FastStream drops these."""
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID):
            self.fail(f"Kafka consumer: {error.str()}")
        elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            log.info("topic_missing", why=error.str())
        else:
            log.warning("consumer_trouble", code=error.name(), why=error.str())

    async def _keep_house(self, store: Store) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                forgotten = await store.write(lambda effect: effect.forget(REMEMBER))
                log.debug("old_rows_forgotten", rows=forgotten)
            await asyncio.sleep(KEEP_HOUSE_EVERY_S)
