"""Membership in a consumer group: subscriptions that change, rebalances, gathering messages into
batches, outages.

A membership is a *session*. Whatever goes wrong in it on Kafka's side ends it, and a new one begins
with a new client at what is durable: one way to recover, taken after every kind of failure, instead
of one for each. (librdkafka lets a transactional call be resumed after some errors; after an outage
such a call has been seen never to return.)

Positions are kept here. A message below its partition's position is dropped: librdkafka may still
hold messages from before a rebalance when the partition comes back, and those must not be seen
twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage

from penstock.contracts import metrics
from penstock.contracts.errors import PenstockError, Unavailable
from penstock.runtime.backoff import Backoff
from penstock.runtime.kafka.assignment import Assignment
from penstock.runtime.kafka.messages import BEGINNING, Batch, Committed, Message, Partition
from penstock.runtime.messaging import DESTINATION, GROUP
from penstock.runtime.metrics import Reading, counter, observed
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)
_INTERRUPTIONS = counter(metrics.INTERRUPTIONS)
librdkafka_log = logging.getLogger("penstock.librdkafka")
librdkafka_log.addFilter(lambda record: not record.getMessage().startswith("FAIL"))
"""For all clients of the data plane. Without connection failures: librdkafka tells them many times
a second as long as Kafka is away, and `kafka_away` says it once.
"""

BATCH = 4000
LINGER_S = 0.05
"""At most 20 batches a second: an event a second must not cost a transaction each time one more arrives."""
POLL_S = 0.5
"""How long an idle stream sleeps; how soon it notices `stop` and new topics."""
CALL_S = 10.0
"""Of one call to the broker."""
LOOK_EVERY_S = 5.0
"""How often the lag is looked at."""
CHECK_EVERY_S = 30.0
"""How often it is looked whether all partitions are given out."""


class Waits(Protocol):
    """Where a stream says that Kafka is away: `Service.readiness`."""

    def waits_for(self, thing: str, why: str) -> None: ...

    def has(self, thing: str) -> None: ...


class StreamFailed(PenstockError):
    """For good: the process must end and start again."""


@dataclass(frozen=True, slots=True)
class Gathered:
    batches: Sequence[Batch]
    ends: Mapping[Partition, int]
    """Partitions whose end was reached, and the position there. Only with `ends=True`."""


NOTHING = Gathered((), {})


class Group:
    """One member. All but `add` and `remove` belongs to the stream's thread."""

    def __init__(
        self, kafka: KafkaSettings, *, name: str, waits: Waits | None, batch: int, linger_s: float, ends: bool
    ) -> None:
        self._kafka = kafka
        self.name = kafka.topic(name)
        self._measured = {GROUP: name}
        self._waits = waits
        self._batch = batch
        self._linger_s = linger_s
        self._ends = ends
        self._lock = threading.Lock()
        self._topics: dict[str, str] = {}
        """Catalogue's name by Kafka's."""
        self._changed = threading.Event()
        self._positions: dict[tuple[str, int], int] = {}
        """Of assigned partitions, by Kafka's topic name."""
        self._highest: dict[tuple[str, int], int] = {}
        """Of all partitions that were ever assigned."""
        self._ended: dict[tuple[str, int], int] = {}
        """Where the log's end was seen last."""
        self._lags: dict[str, int] = {}
        self._look_at = 0.0
        self._assignment = Assignment(kafka, name)
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="assignment")
        self._looking: Future[list[str]] | None = None
        self._check_at = 0.0
        self._rebalances = 0
        self._missed_ends = False
        """A rebalance came while messages were gathered: an end among them may be from before, and
        is told only once.
        """
        self._failure: BaseException | None = None
        self._progressed = False
        """In this session."""
        self._away = False

    # -- any thread --------------------------------------------------------------------------------

    def add(self, topic: str) -> None:
        with self._lock:
            self._topics[self._kafka.topic(topic)] = topic
            self._changed.set()

    def remove(self, topic: str) -> None:
        with self._lock:
            self._topics.pop(self._kafka.topic(topic), None)
            self._changed.set()

    def lags(self) -> list[Reading]:
        """Messages before the group, by topic, some seconds ago. A transaction's marker counts as
        one until the log's end is seen.
        """
        return [(float(lag), {DESTINATION: topic, **self._measured}) for topic, lag in self._lags.items()]

    # -- the stream's thread -----------------------------------------------------------------------

    def sessions(self, stop: threading.Event, session: Callable[[], None]) -> None:
        """Runs `session` again and again until `stop` is set. Raises what it raises, but for
        Kafka's troubles that may pass.
        """
        _INTERRUPTIONS.add(0, self._measured)
        with observed(metrics.LAG, self.lags):
            self._sessions(stop, session)

    def _sessions(self, stop: threading.Event, session: Callable[[], None]) -> None:
        backoff = Backoff(first=0.2, longest=3.0)
        while not stop.is_set():
            try:
                session()
            except Unavailable as later:
                why = str(later)
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
                if error.fatal():
                    raise _failed(error, self.name) from raised
                why = error.str()
            else:
                backoff.reset()
                continue
            if self._progressed:
                backoff.reset()
            self._progressed = False
            log.warning("session_ended", group=self.name, why=why)
            _INTERRUPTIONS.add(1, self._measured)
            self._is_away(why)
            stop.wait(backoff.next())

    @contextmanager
    def joined(
        self,
        assigned: Callable[[Sequence[Partition]], Mapping[Partition, int]],
        revoked: Callable[[Sequence[Partition]], None],
    ) -> Iterator[None]:
        """A member while inside. `assigned` gives the positions to start at; both are called while
        gathering, never during a batch.

        The classic protocol with the range assignor and no static membership: a member that left is
        replaced at once, one that was killed after the session timeout.
        """
        self._on_assigned, self._on_revoked = assigned, revoked
        self._positions, self._failure, self._missed_ends = {}, None, False
        self._changed.set()
        self._consumer = Consumer(
            self._kafka.client(
                group_id=self.name,
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                partition_assignment_strategy="range",
                session_timeout_ms=6000,
                heartbeat_interval_ms=2000,
                enable_partition_eof=self._ends,
                topic_metadata_refresh_interval_ms=10_000,
                allow_auto_create_topics=False,
            )
            | {"error_cb": self._on_error},
            logger=librdkafka_log,
        )
        try:
            yield
        finally:
            self._lags = {}
            self._consumer.close()

    def gather(self) -> Gathered:
        """The next messages, by partition: at most `batch`, waiting `linger_s` after the first.
        Empty after half a second without any.
        """
        if not self._subscribed():
            return NOTHING
        first = self._consumer.poll(POLL_S)
        before = self._rebalances
        raw = [] if first is None else [first, *self._consumer.consume(self._batch - 1, self._linger_s)]
        if self._failure is not None:
            raise self._failure
        if self._rebalances != before:
            self._missed_ends = self._ends
        elif not raw and self._missed_ends:
            self._ask_for_ends()
        if not raw:
            self._watch()
        if time.monotonic() >= self._look_at:
            self._look()
        if time.monotonic() >= self._check_at:
            self._check()
        return self._sort(raw, ends_hold=self._rebalances == before)

    def advance(self, partition: Partition, position: int) -> None:
        """The batch up to `position` is durable."""
        where = self._kafka.topic(partition.topic), partition.number
        self._positions[where] = position
        self._highest[where] = position
        self._progressed = True

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """What the group committed. Read committed and stable: waits for transactions that are
        being decided.
        """
        asked = [
            TopicPartition(self._kafka.topic(partition.topic), partition.number) for partition in partitions
        ]
        found = self._consumer.committed(asked, timeout=CALL_S) if asked else []
        for entry in found:
            if entry.error is not None:
                raise KafkaException(entry.error)
        return {
            partition: Committed(entry.offset if entry.offset >= 0 else BEGINNING, entry.metadata or "")
            for partition, entry in zip(partitions, found, strict=True)
        }

    def commit_for_show(self, partitions: Sequence[Partition]) -> None:
        """Lets other tools see the lag. Not waited for; nothing depends on it."""
        places = [(self._kafka.topic(partition.topic), partition.number) for partition in partitions]
        offsets = [
            TopicPartition(*place, self._positions[place]) for place in places if place in self._positions
        ]
        if offsets:
            with suppress(KafkaException):
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def member(self) -> Any:
        """The member's generation, by which a transaction of one that was replaced is refused."""
        return self._consumer.consumer_group_metadata()

    # -- inside ------------------------------------------------------------------------------------

    def _subscribed(self) -> bool:
        """Follows `add` and `remove`. False while there is no topic, after a pause."""
        if self._changed.is_set():
            with self._lock:
                self._changed.clear()
                topics = sorted(self._topics)
            if topics:
                self._consumer.subscribe(topics, on_assign=self._assign, on_revoke=self._revoke)
            else:
                self._consumer.unsubscribe()
            log.info("subscribed", group=self.name, topics=topics)
        if self._topics:
            return True
        self._consumer.poll(0)
        self._watch()
        self._changed.wait(POLL_S)
        return False

    def _sort(self, raw: Sequence[RawMessage], *, ends_hold: bool) -> Gathered:
        sorted_: dict[tuple[str, int], list[Message]] = {}
        following: dict[tuple[str, int], int] = {}
        ends: dict[Partition, int] = {}
        positions = self._positions
        for message in raw:
            place: tuple[str, int] = (message.topic(), message.partition())  # type: ignore[assignment]
            offset: int = message.offset()  # type: ignore[assignment]
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    self._on_error(error)
                elif ends_hold and place in positions:
                    ends[self._named(place)] = self._ended[place] = offset
                continue
            next_offset = following.get(place)
            if next_offset is None:
                if place not in positions:
                    continue
                next_offset = positions[place]
                sorted_[place] = []
            if offset < next_offset:
                continue
            following[place] = offset + 1
            sorted_[place].append(
                Message(
                    offset,
                    message.key(),
                    message.value(),
                    message.timestamp()[1],
                    message.headers() or (),  # type: ignore[arg-type]
                )
            )
        batches = [
            Batch(self._named(place), messages, following[place])
            for place, messages in sorted_.items()
            if messages
        ]
        return Gathered(batches, ends)

    def _ask_for_ends(self) -> None:
        """Reading on from where it stands makes librdkafka tell the end again."""
        with suppress(KafkaException):
            for place, position in self._positions.items():
                self._consumer.seek(TopicPartition(*place, position))
            self._missed_ends = False

    def _named(self, place: tuple[str, int]) -> Partition:
        return Partition(place[0].removeprefix(self._kafka.topic_prefix), place[1])

    def _assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """An exception must not cross librdkafka: it is kept, and raised by `gather`."""
        self._rebalances += 1
        try:
            partitions = [self._named((entry.topic, entry.partition)) for entry in assigned]
            positions = {
                (self._kafka.topic(where.topic), where.number): at
                for where, at in self._on_assigned(partitions).items()
            }
            for place, position in positions.items():
                if position < self._highest.get(place, position):
                    raise StreamFailed(
                        f"the position of {place[0]} {place[1]} went back from {self._highest[place]} to"
                        f" {position}"
                    )
            self._positions = positions
            self._highest |= positions
            consumer.assign([TopicPartition(*place, position) for place, position in positions.items()])
            log.info(
                "partitions_assigned",
                group=self.name,
                partitions=[f"{topic}/{number}@{at}" for (topic, number), at in positions.items()],
            )
            self._is_back()
        except BaseException as error:
            self._failure = error
            consumer.assign([])

    def _revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        self._rebalances += 1
        self._positions = {}
        try:
            self._on_revoked([self._named((entry.topic, entry.partition)) for entry in revoked])
        except BaseException as error:
            self._failure = self._failure or error
        consumer.unassign()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = _failed(error, self.name)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._is_away(error.str())
        elif error.code() not in (
            KafkaError._TRANSPORT,
            KafkaError._RESOLVE,
        ):  # of one of many connections, many times a second
            log.warning("consumer_error", group=self.name, code=error.name(), error=error.str())

    def _watch(self) -> None:
        """Says when Kafka is back, which librdkafka does not. What was gathered proves nothing: it
        may have been fetched before.
        """
        if self._away:
            with suppress(KafkaException):
                self._consumer.list_topics(
                    next(iter(self._topics), None), timeout=1.0
                )  # without a topic: all of them
                self._is_back()

    def _look(self) -> None:
        """How far the group is behind, by what the last fetch said: the broker is not asked.
        Another thread could not look: a client that is being polled lets nobody else in.
        """
        self._look_at = time.monotonic() + LOOK_EVERY_S
        found: dict[str, int] = {}
        for place, position in self._positions.items():
            low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            topic = self._named(place).topic
            found[topic] = found.get(topic, 0) + max(0, high - max(position, low, self._ended.get(place, 0)))
        self._lags = found

    def _check(self) -> None:
        """Raises Unavailable where the group leaves out a partition: the next session forms it anew."""
        if self._looking is None:
            with self._lock:
                topics = sorted(self._topics.values())
            self._looking = self._looker.submit(self._assignment.look, topics)
        elif self._looking.done():
            left_out, self._looking = self._looking.result(), None
            self._check_at = time.monotonic() + CHECK_EVERY_S
            if left_out:
                raise Unavailable(f"nobody in the group has {', '.join(left_out)}", where=self.name)

    def _is_away(self, why: str) -> None:
        if not self._away:
            self._away = True
            log.warning("kafka_away", group=self.name, why=why)
            if self._waits is not None:
                self._waits.waits_for("kafka", why)

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            log.info("kafka_back", group=self.name)
            if self._waits is not None:
                self._waits.has("kafka")


def _failed(error: KafkaError, group: str) -> StreamFailed:
    fenced = error.code() == KafkaError._FENCED
    remedy = "Give each replica a name of its own: PENSTOCK_<SERVICE>__REPLICA" if fenced else None
    return StreamFailed(error.str(), where=group, remedy=remedy)
