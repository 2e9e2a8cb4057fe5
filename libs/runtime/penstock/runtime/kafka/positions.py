"""Positions of one member of a group in each of its partitions.

A message below its partition's position is dropped: librdkafka may still hold messages from before
a rebalance when the partition comes back, and those must not be seen twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka import Message as RawMessage

from penstock.runtime.kafka.messages import Batch, Message, Partition
from penstock.runtime.kafka.reading import lags, named, topic_partition
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.settings import KafkaSettings

UNASSIGNED: Final = -1  # a position of a partition that is another member's


class Gathered(NamedTuple):
    """Batches, and the partitions whose end was reached with the position there."""

    batches: Sequence[Batch]
    ends: Mapping[Partition, int]


class Positions:
    """Positions by partition. Used from the member's thread, but for `lags`."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.lags: Mapping[str, int] = {}  # messages to each topic's end, as they were measured last
        self._kafka = kafka
        self._next: dict[Partition, int] = {}  # of each assigned partition
        self._highest: dict[Partition, int] = {}  # of each partition that was ever assigned
        self._ended: dict[Partition, int] = {}  # the log's end, as seen last

    def __iter__(self) -> Iterator[TopicPartition]:
        """Assigned partitions with their positions."""
        return (topic_partition(self._kafka, *at) for at in self._next.items())

    def of(self, partition: Partition) -> int:
        """Next offset to be read, or BEGINNING; UNASSIGNED where the partition is not."""
        return self._next.get(partition, UNASSIGNED)

    def begin(self, positions: Mapping[Partition, int]) -> None:
        """Exactly these partitions are assigned. Raises ClientFailed where a position went back."""
        for where, position in positions.items():
            if position < (highest := self._highest.get(where, position)):
                raise ClientFailed(
                    f"the position of {where.topic} {where.number} went back from {highest} to {position}"
                )
        self._next = dict(positions)
        self._highest |= positions

    def end(self) -> None:
        """None is assigned."""
        self._next = {}

    def forget(self, topic: str) -> None:
        """No position of the topic is known any more, nor is it assigned: another of its name may come."""
        for known in (self._next, self._highest, self._ended):
            for where in [where for where in known if where.topic == topic]:
                del known[where]

    def advance(self, partition: Partition, position: int) -> None:
        self._next[partition] = self._highest[partition] = position

    def sort(
        self, raw: Sequence[RawMessage], on_error: Callable[[KafkaError], None], *, ends_hold: bool
    ) -> Gathered:
        """Sorts by partition what librdkafka handed out. `ends_hold`: ends among it are of now."""
        found: defaultdict[tuple[str | None, int | None], list[RawMessage]] = defaultdict(list)
        ends: dict[Partition, int] = {}
        for message in raw:
            place = message.topic(), message.partition()
            if (error := message.error()) is None:
                found[place].append(message)
            elif error.code() != KafkaError._PARTITION_EOF:
                on_error(error)
            elif ends_hold and (where := named(self._kafka, *place)) in self._next:
                ends[where] = self._ended[where] = message.offset() or 0
        batches = (self._batch(named(self._kafka, *place), messages) for place, messages in found.items())
        return Gathered([batch for batch in batches if batch is not None], ends)

    def _batch(self, partition: Partition, raw: Sequence[RawMessage]) -> Batch | None:
        """Returns the messages that are still to be read; None without any."""
        position = self._next.get(partition)
        if position is None:
            return None
        messages: list[Message] = []
        for message in raw:
            offset: int = message.offset()  # type: ignore[assignment]
            if offset >= position:
                position = offset + 1
                headers: Any = message.headers() or ()
                messages.append(
                    Message(offset, message.key(), message.value(), message.timestamp()[1], headers)
                )
        return Batch(partition, messages, position) if messages else None

    def measure(self, client: Consumer) -> None:
        """Takes the lags anew. From the thread that polls the client.

        A transaction's marker counts as a message until the log's end is seen.
        """
        reached = {where: max(at, self._ended.get(where, 0)) for where, at in self._next.items()}
        self.lags = lags(self._kafka, client, reached)
