"""Membership in a consumer group: subscriptions that change, rebalances, gathering messages into
batches. One membership lasts as long as one session (`recovery.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from penstock.runtime.kafka import reading
from penstock.runtime.kafka.assignment import Watch
from penstock.runtime.kafka.clients import member
from penstock.runtime.kafka.messages import Committed, Partition
from penstock.runtime.kafka.positions import NOTHING, Gathered, Positions
from penstock.runtime.kafka.recovery import Recovery
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

BATCH: Final = 4000
"""Messages in one batch."""
LINGER_S: Final = 0.05
"""Seconds in which more messages are gathered after the first: at most 20 batches a second, as an
event a second must not cost a transaction each time one more arrives.
"""
POLL_S: Final = 0.5
"""Seconds that an idle member sleeps; how soon it notices `stop` and new topics."""
MEASURE_EVERY_S: Final = 5.0


class Member:
    """One member. All but `add` and `remove` belongs to the thread that runs the sessions."""

    def __init__(
        self, kafka: KafkaSettings, group: str, recovery: Recovery, *, batch: int, linger_s: float, ends: bool
    ) -> None:
        """`batch`: the most messages gathered at once; `linger_s`: seconds to gather more after the
        first; `ends`: the ends of partitions are told.
        """
        self.positions = Positions(kafka, group)
        self._kafka = kafka
        self._name = kafka.topic(group)
        self._recovery = recovery
        self._batch = batch
        self._linger_s = linger_s
        self._ends = ends
        self._lock = threading.Lock()
        self._topics: dict[str, str] = {}
        """Catalogue's name by Kafka's."""
        self._changed = threading.Event()
        self._left_out = Watch(kafka, group)
        self._measure_at = 0.0
        self._rebalances = 0
        self._missed_ends = False
        """A rebalance came while messages were gathered: an end among them may be from before, and
        is told only once.
        """
        self._failure: BaseException | None = None

    def add(self, topic: str) -> None:
        """Subscribes to one more topic, within half a second. From any thread."""
        with self._lock:
            self._topics[self._kafka.topic(topic)] = topic
            self._changed.set()

    def remove(self, topic: str) -> None:
        with self._lock:
            self._topics.pop(self._kafka.topic(topic), None)
            self._changed.set()

    @contextmanager
    def joined(
        self,
        assigned: Callable[[Sequence[Partition]], Mapping[Partition, int]],
        revoked: Callable[[Sequence[Partition]], None],
    ) -> Iterator[None]:
        """A member while inside. `assigned` gives the positions to start at; both are called while
        gathering, never during a batch.
        """
        self._on_assigned, self._on_revoked = assigned, revoked
        self.positions.end()
        self._failure, self._missed_ends = None, False
        self._changed.set()
        self._client = member(self._kafka, self._name, ends=self._ends, on_error=self._on_error)
        try:
            yield
        finally:
            self.positions.end()
            self.positions.measure(self._client)
            self._client.close()

    def gather(self) -> Gathered:
        """The next messages, by partition. Empty after half a second without any.

        Raises ClientFailed, what `assigned` raised, and Unavailable where the group leaves a
        partition to nobody: the next session forms it anew.
        """
        if not self._subscribed():
            return NOTHING
        first = self._client.poll(POLL_S)
        before = self._rebalances
        raw = [] if first is None else [first, *self._client.consume(self._batch - 1, self._linger_s)]
        if self._failure is not None:
            raise self._failure
        rebalanced = self._rebalances != before
        if rebalanced:
            self._missed_ends = self._ends
        elif not raw and self._missed_ends:
            self._ask_for_ends()
        if not raw:
            self._watch()
        if time.monotonic() >= self._measure_at:
            self._measure_at = time.monotonic() + MEASURE_EVERY_S
            self.positions.measure(self._client)
        self._left_out.check(self._catalogued)
        return self.positions.sort(raw, self._on_error, ends_hold=not rebalanced)

    def advance(self, partition: Partition, position: int) -> None:
        """The batch up to `position` is durable."""
        self.positions.advance(partition, position)
        self._recovery.progressed()

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """Returns what the group committed. Raises Unavailable."""
        return reading.committed(self._kafka, self._client, partitions)

    def commit_for_show(self, partitions: Sequence[Partition]) -> None:
        """Lets other tools see the lag. Not waited for; nothing depends on it."""
        if offsets := self.positions.of(partitions):
            with suppress(KafkaException):
                self._client.commit(offsets=offsets, asynchronous=True)

    def metadata(self) -> Any:
        """The member's generation, by which a transaction of one that was replaced is refused."""
        return self._client.consumer_group_metadata()

    # -- inside ------------------------------------------------------------------------------------

    def _subscribed(self) -> bool:
        """Follows `add` and `remove`. False while there is no topic, after a pause."""
        if self._changed.is_set():
            with self._lock:
                self._changed.clear()
                topics = sorted(self._topics)
            if topics:
                self._client.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke)
            else:
                self._client.unsubscribe()
            log.info("subscribed", group=self._name, topics=topics)
        if self._topics:
            return True
        self._client.poll(0)
        self._watch()
        self._changed.wait(POLL_S)
        return False

    def _catalogued(self) -> list[str]:
        with self._lock:
            return sorted(self._topics.values())

    def _watch(self) -> None:
        """Asks Kafka itself: gathered messages prove nothing, they may have been fetched before it went
        away.
        """
        self._recovery.watch(self._client, next(iter(self._topics), None))

    def _ask_for_ends(self) -> None:
        """Reading on from where it stands makes librdkafka tell the end again."""
        with suppress(KafkaException):
            for where in self.positions:
                self._client.seek(where)
            self._missed_ends = False

    def _assign(self, client: Consumer, assigned: list[TopicPartition]) -> None:
        """An exception must not cross librdkafka: it is kept, and raised by `gather`."""
        self._rebalances += 1
        try:
            self.positions.begin(self._on_assigned(self._named(assigned)))
            places = list(self.positions)
            client.assign(places)
            log.info(
                "partitions_assigned",
                group=self._name,
                partitions=[f"{where.topic}/{where.partition}@{where.offset}" for where in places],
            )
            self._recovery.back()
        except BaseException as error:
            self._failure = error
            client.assign([])

    def _revoke(self, client: Consumer, revoked: list[TopicPartition]) -> None:
        self._rebalances += 1
        self.positions.end()
        try:
            self._on_revoked(self._named(revoked))
        except BaseException as error:
            self._failure = self._failure or error
        client.unassign()

    def _named(self, places: Sequence[TopicPartition]) -> list[Partition]:
        prefix = self._kafka.topic_prefix
        return [Partition(where.topic.removeprefix(prefix), where.partition) for where in places]

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = self._recovery.failed(error)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._recovery.away(error.str())
        elif error.code() not in (
            KafkaError._TRANSPORT,
            KafkaError._RESOLVE,
        ):  # of one of many connections, many times a second
            log.warning("consumer_error", group=self._name, code=error.name(), error=error.str())
