"""Messages in and out of Kafka: plain values, so that the work on them needs no broker.

Topics are named as in the catalogue, without the installation's prefix. A position is the next
offset to read. Metadata is committed beside a position, in the same transaction, and has at most
4,096 bytes (Kafka's `offset.metadata.max.bytes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes]]

BEGINNING = -2  # a position before the first message that is still there (librdkafka's OFFSET_BEGINNING)
BY_KEY = -1  # no partition of choice: the producer finds it by the message's key


class Partition(NamedTuple):
    topic: str
    number: int


class Message(NamedTuple):
    """A message that was read. `timestamp`: milliseconds since the epoch, as the topic keeps them;
    -1 where there is none.
    """

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers

    def header(self, name: str) -> bytes | None:
        """The last header of this name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one partition, in order. Offsets rise, with gaps (transaction markers, aborted
    messages). Everything below `position` is in this batch or was before it.
    """

    partition: Partition
    messages: Sequence[Message]
    position: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Committed position of a consumer group in one partition; `BEGINNING` where there is none yet."""

    position: int
    metadata: str = ""


class Produced(NamedTuple):
    """A message to publish. `partition`: a number or `BY_KEY`."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


Send = Callable[[Sequence[Produced]], None]
"""Takes messages to publish, which are on their way to Kafka while more are made."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of the work on one batch: what was sent and this become durable together, or nothing does.

    `committed` is called once when the transaction is durable, before the partition's next batch:
    the place to change what is kept in memory.
    """

    metadata: str = ""
    committed: Callable[[], None] = field(default=lambda: None)
