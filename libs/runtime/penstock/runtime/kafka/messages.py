"""Messages in and out of Kafka: plain values, so that the work on them needs no broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes]]

BEGINNING = -2
"""A position before the first message that is still there (librdkafka's OFFSET_BEGINNING)."""
BY_KEY = -1
"""No partition of choice: the producer finds it by the message's key."""


class Partition(NamedTuple):
    topic: str
    """Topic as in the catalogue, without prefix."""
    number: int


class Message(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    """Milliseconds since the epoch, as the topic keeps them; -1 where there is none."""
    headers: Headers

    def header(self, name: str) -> bytes | None:
        """The last header of this name."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one partition, in order. Offsets rise, with gaps (transaction markers, aborted
    messages).
    """

    partition: Partition
    messages: Sequence[Message]
    position: int
    """The next offset to read: everything below it is in this batch or was before it."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Committed position of a consumer group in one partition."""

    position: int
    """The next offset to read; `BEGINNING` where nothing was committed yet."""
    metadata: str = ""
    """Committed beside the offset, at most 4,096 bytes (Kafka's `offset.metadata.max.bytes`)."""


class Produced(NamedTuple):
    topic: str
    """Topic as in the catalogue, without prefix."""
    partition: int
    """Or `BY_KEY`."""
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Output of one batch, all of it or nothing."""

    produced: Sequence[Produced] = ()
    metadata: str = ""
    """Committed beside the partition's offset in the same transaction; at most 4,096 bytes."""
    committed: Callable[[], None] = field(default=lambda: None)
    """Called once when the transaction is durable, before the partition's next batch: the place to
    change what is kept in memory.
    """
