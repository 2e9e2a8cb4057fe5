"""Mends FastStream 0.7.8. This is the only file that reaches into its insides.

Each mend says what FastStream does without it, and names the test that fails then; a test holds
that those tests exist, and that no other file does this.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from faststream.confluent import KafkaBroker
from faststream.confluent.helpers import AsyncConfluentConsumer

from penstock.runtime.kafka.clients import CLOSE_S, close
from penstock.runtime.kafka.progress import Position
from penstock.runtime.kafka.reading import asking
from penstock.runtime.kafka.recovery import ClientFailed

log = structlog.get_logger(__name__)

PRODUCER_POLL_S: Final = 1.0
STOP_S: Final = CLOSE_S + 2.0  # seconds; a poll may have to end first
ANSWER_S: Final = 2.0  # that an answer about positions is waited for

T = TypeVar("T")


def install(broker: KafkaBroker, on_error: Callable[[KafkaError], None]) -> None:
    """Gives the broker's subscribers a `Client` each. FastStream offers no choice of its consumer.

    Fails without it: `test_a_fenced_consumer_ends_the_control_plane`.
    """
    config = broker.config.broker_config
    config.builder = partial(
        Client,
        config=config.connection_config,
        admin_service=config.admin,
        logger=config.logger,
        on_error=on_error,
    )


class Client(AsyncConfluentConsumer):
    """FastStream's consumer of one subscriber, which has librdkafka's client in `consumer` and calls
    it from one thread.
    """

    __slots__ = ("_on_error",)

    def __init__(self, *topics: Any, on_error: Callable[[KafkaError], None], **options: Any) -> None:
        super().__init__(*topics, **options)
        self._on_error = on_error

    async def getone(self, timeout: float = 0.1) -> Message | None:  # noqa: ASYNC109  FastStream's signature
        """The next message. FastStream drops an error that a poll returns; here it is told.

        Fails without it: `test_a_fenced_consumer_ends_the_control_plane`.
        """
        message = await self._in_thread(self.consumer.poll, timeout)
        if message is not None and (error := message.error()) is not None:
            self._on_error(error)
            return None
        return message

    def commit(self, topic: str, partition: int, offset: int) -> None:  # type: ignore[override]
        """Commits this partition's position and no other. FastStream's `ack` commits what the client has
        stored by then: of each partition the message that was polled last, also where that one is to
        come again.

        Not waited for, and lost with a crash, an outage or a rebalance: the inbox knows the message
        when it comes again.

        Fails without it: `test_a_message_that_comes_again_is_not_committed_with_another`.
        """
        with contextlib.suppress(KafkaException, RuntimeError):  # revoked, or closed meanwhile
            position = TopicPartition(topic, partition, offset)
            self.consumer.commit(offsets=[position], asynchronous=True)

    async def positions(self) -> list[Position]:
        """Returns the consumer's position in each partition that it holds. Raises Unavailable where
        Kafka does not answer it. FastStream does not say. Asked by the thread that polls: it uses the
        client from no other.

        Fails without it: `test_a_consumer_that_stands_still_ends_the_control_plane`.
        """
        try:
            with asking("the consumer's positions"):
                return await self._in_thread(self._positions)
        except RuntimeError:  # closed meanwhile
            return []

    async def join_anew(self) -> None:
        """Leaves the group and joins it again. FastStream subscribes once, and to subscribe to the
        same topics once more does nothing.

        Fails without it: `test_a_topic_that_the_group_left_out_is_read_after_all`.
        """
        with contextlib.suppress(RuntimeError):  # it is being closed
            await self._in_thread(self.consumer.unsubscribe)
            await self.start()

    async def stop(self) -> None:
        """Closes the client, or leaves it behind where librdkafka lets that neither begin nor end within
        12 s. FastStream waits for it for ever, and with it a service that was to be started again.

        Fails without it: `test_a_consumer_that_does_not_close_ends_the_control_plane`.
        """
        try:
            async with asyncio.timeout(STOP_S):
                await self._in_thread(close, self.consumer)
        except (TimeoutError, ClientFailed) as error:
            log.warning("consumer_left_behind", why=str(error))
        except RuntimeError:  # it was closed before
            return
        self._thread_pool.shutdown(wait=False)

    def _positions(self) -> list[Position]:
        found: list[Position] = []
        self.consumer.list_topics(self.topics[0].name, timeout=ANSWER_S)  # it may hold no partition
        for held in self.consumer.position(self.consumer.assignment()):
            place = TopicPartition(held.topic, held.partition)
            low, end = self.consumer.get_watermark_offsets(place, timeout=ANSWER_S)
            offset = held.offset
            if offset < 0:  # it has taken no message yet, and begins here
                (committed,) = self.consumer.committed([place], timeout=ANSWER_S)
                offset = max(committed.offset, low)
            found.append(Position(held.topic, held.partition, offset, max(0, end - offset)))
        return found

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread_pool, partial(call, *arguments))


def poll_slower(broker: KafkaBroker) -> None:
    """Asks the producer once a second for acknowledgements, which ends at once when one comes.
    FastStream asks ten times a second, half of an idle service's work.

    In a thread that no end waits for: the event loop's would wait for the poll, one of asyncio's threads.

    Fails without it: `test_an_idle_producer_is_asked_once_a_second`,
    `test_no_end_waits_for_a_producer_that_is_asked`.
    """
    producer = broker.config.producer._producer.producer  # type: ignore[attr-defined]
    producer._poll_task.cancel()
    stopped = threading.Event()

    def poll() -> None:
        with contextlib.suppress(RuntimeError):  # an acknowledgement for a loop that has ended
            while not stopped.is_set():
                producer.producer.poll(PRODUCER_POLL_S)

    async def polled() -> None:
        threading.Thread(target=poll, name="acknowledgements", daemon=True).start()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    producer._poll_task = asyncio.create_task(polled())


def purge(broker: KafkaBroker) -> None:
    """Drops what the producer still holds. FastStream waits for it while it stops, as long as Kafka
    is away. Whatever is unacknowledged is durable elsewhere: an outbox row, or the uncommitted
    original of a dead letter.

    Fails without it: `test_it_stops_at_once_while_kafka_is_away`.
    """
    broker.config.producer._producer.producer.producer.purge()  # type: ignore[attr-defined]
