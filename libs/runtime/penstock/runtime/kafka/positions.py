"""Positions of one member of a group in each of its partitions.

A message below its partition's position is dropped: librdkafka may still hold messages from before
a rebalance when the partition comes back, and those must not be seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka import Message as RawMessage

from penstock.runtime.kafka.messages import Batch, Message, Partition
from penstock.runtime.kafka.reading import lags
from penstock.runtime.kafka.recovery import ClientFailed
from penstock.runtime.messaging import DESTINATION, GROUP
from penstock.runtime.metrics import Reading
from penstock.runtime.settings import KafkaSettings

Place = tuple[str, int]
"""A partition by Kafka's name of its topic, as librdkafka has it."""


@dataclass(frozen=True, slots=True)
class Gathered:
    batches: Sequence[Batch]
    ends: Mapping[Partition, int]
    """Partitions whose end was reached, and the position there."""


NOTHING = Gathered((), {})


class Positions:
    """Positions by partition. Used from the member's thread, but for `lags`."""

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._next: dict[Place, int] = {}
        """Next offset of each assigned partition."""
        self._highest: dict[Place, int] = {}
        """Highest offset of each partition that was ever assigned."""
        self._ended: dict[Place, int] = {}
        """End of each partition's log, as seen last."""
        self._lags: dict[str, int] = {}

    def __iter__(self) -> Iterator[TopicPartition]:
        """Each assigned partition with its position."""
        return (TopicPartition(*place, position) for place, position in self._next.items())

    def begin(self, positions: Mapping[Partition, int]) -> None:
        """Exactly these partitions are assigned. Raises ClientFailed where a position went back."""
        begun = {(self._kafka.topic(where.topic), where.number): at for where, at in positions.items()}
        for place, position in begun.items():
            if position < self._highest.get(place, position):
                raise ClientFailed(
                    f"the position of {place[0]} {place[1]} went back from {self._highest[place]} to"
                    f" {position}"
                )
        self._next = begun
        self._highest |= begun

    def end(self) -> None:
        """None is assigned."""
        self._next = {}

    def advance(self, partition: Partition, position: int) -> None:
        place = self._kafka.topic(partition.topic), partition.number
        self._next[place] = self._highest[place] = position

    def of(self, partitions: Sequence[Partition]) -> list[TopicPartition]:
        """Returns those of `partitions` that are assigned, with their positions."""
        places = [(self._kafka.topic(partition.topic), partition.number) for partition in partitions]
        return [TopicPartition(*place, self._next[place]) for place in places if place in self._next]

    def sort(
        self, raw: Sequence[RawMessage], on_error: Callable[[KafkaError], None], *, ends_hold: bool
    ) -> Gathered:
        """Sorts by partition what librdkafka handed out. `ends_hold`: ends among it are of now."""
        found: dict[Place, list[Message]] = {}
        following: dict[Place, int] = {}
        ends: dict[Partition, int] = {}
        positions = self._next
        for message in raw:
            place: Place = (message.topic(), message.partition())  # type: ignore[assignment]
            offset: int = message.offset()  # type: ignore[assignment]
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    on_error(error)
                elif ends_hold and place in positions:
                    ends[self._named(place)] = self._ended[place] = offset
                continue
            next_offset = following.get(place)
            if next_offset is None:
                if place not in positions:
                    continue
                next_offset = positions[place]
                found[place] = []
            if offset < next_offset:
                continue
            following[place] = offset + 1
            found[place].append(
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
            for place, messages in found.items()
            if messages
        ]
        return Gathered(batches, ends)

    def lags(self) -> list[Reading]:
        """Messages before the group, by topic, as they were measured last. A transaction's marker
        counts as one until the log's end is seen. From any thread.
        """
        return [(float(lag), {DESTINATION: topic, GROUP: self._group}) for topic, lag in self._lags.items()]

    def measure(self, client: Consumer) -> None:
        """Takes the lags anew. From the thread that polls the client."""
        reached = {
            self._named(place): max(position, self._ended.get(place, 0))
            for place, position in self._next.items()
        }
        self._lags = lags(self._kafka, client, reached)

    def _named(self, place: Place) -> Partition:
        return Partition(place[0].removeprefix(self._kafka.topic_prefix), place[1])
