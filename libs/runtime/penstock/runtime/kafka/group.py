"""Membership in a consumer group: subscriptions that change, rebalances, gathering messages into
batches. One membership lasts as long as one session (`recovery.py`).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from penstock.contracts import metrics
from penstock.runtime.kafka.assignment import Assignment
from penstock.runtime.kafka.clients import close, member
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.kafka.positions import Gathered, Positions
from penstock.runtime.kafka.reading import named
from penstock.runtime.kafka.recovery import Recovery
from penstock.runtime.messaging import lag_readings
from penstock.runtime.metrics import observed
from penstock.runtime.readiness import Readiness
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

BATCH: Final = 4000  # messages in one batch
# Seconds from one batch to the next, in which its messages are gathered: at most 25 batches a second, as
# a transaction costs as much as hundreds of events. A message that comes after a pause waits for none.
LINGER_S: Final = 0.04
TOGETHER_S: Final = 0.005  # that the first after a pause waits for what was sent with it
POLL_S: Final = 0.5  # seconds that an idle member sleeps; how soon it notices `stop` and new topics


class Member(ABC):
    """A member of a consumer group that handles messages in batches.

    All but `subscribe` and `remove` belongs to the thread that calls `run`. `_assigned` and
    `_revoked` are called while messages are gathered, never while they are handled.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        group: str,
        readiness: Readiness | None,
        *,
        batch: int,
        linger_s: float,
    ) -> None:
        """`batch`: the most messages gathered at once; `linger_s`: seconds between two batches that are
        not full.
        """
        self._kafka = kafka
        self._group = group
        self._recovery = Recovery(group, readiness)
        self._positions = Positions(kafka)
        self._batch = batch
        self._linger_s = linger_s
        self._gathered_at = -linger_s  # when the last messages were complete
        self._worked_s = 0.0  # that these took
        self._lock = threading.Lock()
        self._topics: frozenset[str] = frozenset()  # made anew under the lock, read without
        self._removed: frozenset[str] = frozenset()  # since the member's thread looked last
        self._changed = threading.Event()
        self._assignment = Assignment(kafka, group)

    def subscribe(self, topic: str) -> None:
        """Subscribes to one more topic, within half a second. From any thread."""
        with self._lock:
            self._topics |= {topic}
        self._changed.set()

    def remove(self, topic: str) -> None:
        """Ends the subscription, within half a second; what is in flight is finished first. A topic that
        is subscribed to again may be another of its name: no position of the old one counts.
        """
        with self._lock:
            self._topics -= {topic}
            self._removed |= {topic}
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set; the batch in hand is finished. Goes on by itself when Kafka
        has been away. Raises ClientFailed, and what the work on a batch raises.
        """
        with observed(metrics.LAG, lambda: lag_readings(self._group, self._positions.lags)):
            self._recovery.run(stop, lambda: self._session(stop))

    @abstractmethod
    def _begin(self) -> Callable[[Gathered], None]:
        """Begins a session. Returns what handles all that is gathered in it."""

    @abstractmethod
    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Returns the positions to start at."""

    def _revoked(self, partitions: Sequence[Partition]) -> None:  # noqa: B027  not every member minds
        """Another replica may own these from now on."""

    def _advance(self, partition: Partition, position: int) -> None:
        """The batch up to `position` is durable."""
        self._positions.advance(partition, position)
        self._recovery.progressed()

    # -- inside ------------------------------------------------------------------------------------

    def _session(self, stop: threading.Event) -> None:
        self._positions.end()
        self._failure: BaseException | None = None
        # A rebalance came while messages were gathered: an end among them may be from before, and
        # is told only once.
        self._missed_ends = False
        self._changed.set()
        name = self._kafka.topic(self._group)
        self._client = member(self._kafka, name, self._on_error)
        try:
            handle = self._begin()
            while not stop.is_set():
                gathered = self._gather()
                began = time.monotonic()
                handle(gathered)
                if gathered.batches:
                    self._worked_s = time.monotonic() - began
        finally:
            self._positions.end()
            self._positions.measure(self._client)
            close(self._client)

    def _gather(self) -> Gathered:
        """The next messages, by partition. Empty after half a second without any.

        Raises ClientFailed, what `_assigned` raised, and Unavailable where the group leaves a
        partition to nobody: the next session forms it anew.
        """
        if not self._subscribed():
            return Gathered((), {})
        first = self._client.poll(POLL_S)
        self._rebalanced = False
        raw = [] if first is None else [first, *self._more()]
        if self._failure is not None:
            raise self._failure
        if self._rebalanced:
            self._missed_ends = True
        elif not raw and self._missed_ends:
            self._ask_for_ends()
        if not raw:
            self._watch()
        self._positions.measure(self._client)
        self._assignment.check(self._topics)
        return self._positions.sort(raw, self._on_error, ends_hold=not self._rebalanced)

    def _more(self) -> list[Message]:
        """Messages after the first, until the batch is full or due: no sooner than the last one's work
        took, so that many small batches do not take all of the time.
        """
        due = self._gathered_at + self._linger_s - time.monotonic()
        pause = min(self._linger_s, max(TOGETHER_S, self._worked_s))
        more = self._client.consume(self._batch - 1, max(due, pause))
        self._gathered_at = time.monotonic()
        return more

    def _subscribed(self) -> bool:
        """Follows `subscribe` and `remove`. False while there is no topic, after a pause."""
        if self._changed.is_set():
            self._changed.clear()
            with self._lock:
                removed, self._removed = self._removed, frozenset()
            for topic in removed:
                self._positions.forget(topic)
            if removed & self._topics:  # back meanwhile: given up first, then taken anew
                self._changed.set()
            topics = sorted(map(self._kafka.topic, self._topics - removed))
            if topics:
                self._client.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke)
            else:
                self._client.unsubscribe()
            log.info("subscribed", group=self._group, topics=topics)
        if self._topics:
            return True
        self._client.poll(0)
        self._watch()
        self._changed.wait(POLL_S)
        return False

    def _watch(self) -> None:
        """Asks Kafka itself: gathered messages prove nothing, they may have been fetched before it went
        away.
        """
        self._recovery.watch(self._client, next(map(self._kafka.topic, self._topics), None))

    def _ask_for_ends(self) -> None:
        """Reading on from where it stands makes librdkafka tell the end again."""
        with suppress(KafkaException):
            for where in self._positions:
                self._client.seek(where)
            self._missed_ends = False

    def _assign(self, client: Consumer, assigned: list[TopicPartition]) -> None:
        """An exception must not cross librdkafka: it is kept, and raised by `_gather`."""
        self._rebalanced = True
        try:
            self._positions.begin(self._assigned(self._named(assigned)))
            places = list(self._positions)
            client.assign(places)
            log.info(
                "partitions_assigned",
                group=self._group,
                partitions=[f"{where.topic}/{where.partition}@{where.offset}" for where in places],
            )
            self._recovery.back()
        except BaseException as error:
            self._failure = error
            client.assign([])

    def _revoke(self, client: Consumer, revoked: list[TopicPartition]) -> None:
        self._rebalanced = True
        self._positions.end()
        try:
            self._revoked(self._named(revoked))
        except BaseException as error:
            self._failure = self._failure or error
        client.unassign()

    def _named(self, places: Sequence[TopicPartition]) -> list[Partition]:
        return [named(self._kafka, where.topic, where.partition) for where in places]

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = self._recovery.failed(error)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._recovery.away(error.str())
        elif error.code() not in (
            KafkaError._TRANSPORT,
            KafkaError._RESOLVE,
        ):  # of one of many connections, many times a second
            log.warning("consumer_error", group=self._group, code=error.name(), error=error.str())
