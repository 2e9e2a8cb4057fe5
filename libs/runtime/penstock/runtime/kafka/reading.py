"""Reads partitions and asks where groups stand, outside of any group and within bounds of time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as RawMessage

from penstock.contracts.errors import Unavailable
from penstock.runtime.kafka.clients import CALL_S, Isolation, close, reader
from penstock.runtime.kafka.messages import BEGINNING, Committed, Partition
from penstock.runtime.settings import KafkaSettings

POLL_S = 0.05
CHUNK = 5_000  # messages that are taken from librdkafka at once

_NOT_THERE_YET = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)


class Taken(NamedTuple):
    """Messages, and the partitions whose end was reached with the next offset there."""

    messages: list[RawMessage]
    ends: dict[Partition, int]


class Reader(AbstractContextManager["Reader"]):
    """A client outside of any group, by the catalogue's names. Blocking, for one thread at a time.

    Every method raises Unavailable where Kafka does not answer within `within_s`; so does one that
    reads and meets an error.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        group: str,
        *,
        isolation: Isolation = "read_committed",
        within_s: float = CALL_S,
        fetch_wait_ms: int = 500,
    ) -> None:
        """`group`: the one that is asked about (`committed`), else any name; it is not joined.
        `read_committed`: what a transaction decides is waited for, and a partition ends before an
        open transaction; `read_uncommitted` sees the log's real end.
        """
        self.client = reader(kafka, kafka.topic(group), isolation=isolation, fetch_wait_ms=fetch_wait_ms)
        self._kafka = kafka
        self._within_s = within_s

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        close(self.client)

    def partitions(self, topic: str) -> list[Partition]:
        """Returns all partitions of the topic; none while there is no such topic."""
        name = self._kafka.topic(topic)
        with asking(topic):
            found = self.client.list_topics(name, self._within_s).topics[name]
            if found.error is not None and found.error.code() not in _NOT_THERE_YET:
                raise KafkaException(found.error)
        return [Partition(topic, number) for number in sorted(found.partitions)]

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, Committed]:
        """Returns the group's position in each partition."""
        return committed(self._kafka, self.client, partitions, self._within_s)

    def ends(self, partition: Partition) -> tuple[int, int]:
        """The first offset that is there, and the next one to be written."""
        with asking(partition.topic):
            return self.client.get_watermark_offsets(topic_partition(self._kafka, partition), self._within_s)

    def begin(self, positions: Mapping[Partition, int]) -> None:
        """Reads these partitions too from now on, each from its position."""
        if positions:
            with asking("the partitions"):
                self.client.incremental_assign(
                    [topic_partition(self._kafka, *at) for at in positions.items()]
                )

    def take(self, most: int, wait_s: float) -> Taken:
        """The next messages, waiting `wait_s` seconds for the first, in order by partition."""
        with asking("the partitions"):
            first = self.client.poll(wait_s)
            found = [] if first is None else [first, *self.client.consume(most - 1, 0)]
            taken = Taken([], {})
            for message in found:
                if (error := message.error()) is None:
                    taken.messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    taken.ends[named(self._kafka, message.topic(), message.partition())] = (
                        message.offset() or 0
                    )
                else:
                    raise KafkaException(error)
        return taken

    def span(
        self, partition: Partition, start: int, end: int, enough: Callable[[RawMessage], bool]
    ) -> list[RawMessage]:
        """The messages from `start` to below `end`; fewer where the last one that can be read is
        `enough`. An open transaction is waited for. Raises Unavailable after `within_s` seconds
        without a message.
        """
        with asking(partition.topic):
            self.client.assign([topic_partition(self._kafka, partition, start)])
        found: list[RawMessage] = []
        deadline = time.monotonic() + self._within_s
        while time.monotonic() < deadline:
            taken = self.take(CHUNK, POLL_S)
            for message in taken.messages:
                if (message.offset() or 0) >= end:
                    return found
                found.append(message)
            if taken.messages:
                deadline = time.monotonic() + self._within_s
                if (taken.messages[-1].offset() or 0) + 1 == end:
                    return found  # to be told so by a fetch that comes back empty takes half a second
            reached = taken.ends.get(partition)
            if reached is not None and (reached >= end or (found and enough(found[-1]))):
                return found
        raise Unavailable(f"{partition.topic} {partition.number} stays silent from {start}")


def committed(
    kafka: KafkaSettings, client: Consumer, partitions: Sequence[Partition], within_s: float = CALL_S
) -> dict[Partition, Committed]:
    """Reads what the client's group has committed. Read committed and stable: transactions that are being
    decided are waited for. Raises Unavailable.
    """
    asked = [topic_partition(kafka, partition) for partition in partitions]
    with asking("the group's positions"):
        found = client.committed(asked, timeout=within_s) if asked else []
        for entry in found:
            if entry.error is not None:
                raise KafkaException(entry.error)
    return {
        partition: Committed(entry.offset if entry.offset >= 0 else BEGINNING, entry.metadata or "")
        for partition, entry in zip(partitions, found, strict=True)
    }


def lags(kafka: KafkaSettings, client: Consumer, positions: Mapping[Partition, int]) -> dict[str, int]:
    """Messages from each position to its partition's end, summed by topic, by what the last fetch
    said: the broker is not asked. In the thread that polls the client, which lets nobody else in.
    """
    found: Counter[str] = Counter()
    for partition, position in positions.items():
        low, high = client.get_watermark_offsets(topic_partition(kafka, partition), cached=True)
        found[partition.topic] += max(0, high - max(position, low, 0))
    return found


def topic_partition(
    kafka: KafkaSettings, partition: Partition, position: int = OFFSET_INVALID
) -> TopicPartition:
    return TopicPartition(kafka.topic(partition.topic), partition.number, position)


def named(kafka: KafkaSettings, topic: str | None, number: int | None) -> Partition:
    """A partition by the catalogue's name, from librdkafka's."""
    return Partition((topic or "").removeprefix(kafka.topic_prefix), number or 0)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Raises Unavailable for a KafkaException that is not fatal."""
    try:
        yield
    except KafkaException as error:
        if error.args[0].fatal():
            raise
        raise Unavailable(
            f"{what} cannot be read: {error.args[0].str()}", remedy="Try again when Kafka is back"
        ) from error
