"""Consumers that stand still: messages wait, the handler is idle, and none is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Weight of a look at which other partitions went on: a message may wait behind a backlog of theirs.
BESIDE_OTHERS = 0.1


@dataclass(frozen=True)
class Position:
    """A consumer's place in one partition. `offset` is its next message."""

    topic: str
    partition: int
    offset: int
    lag: int

    @property
    def place(self) -> tuple[str, int]:
        return self.topic, self.partition


class Progress:
    """Progress of one consumer. Counts looks, not time: after the process was frozen, the first look proves
    nothing.
    """

    def __init__(self, looks: int) -> None:
        """`looks` in a row at which a partition has not moved, and it stands still."""
        self._looks = looks
        self._seen: dict[tuple[str, int], tuple[int, float]] = {}

    def look(self, positions: Sequence[Position], *, busy: bool) -> list[Position]:
        """`positions`: all that the consumer holds now. Returns those that stand still.

        What is not among them, as Kafka is away or the partition went to another replica, is judged
        anew when it is back.
        """
        before, self._seen = self._seen, {}
        moved = any(before.get(held.place, (held.offset, 0))[0] != held.offset for held in positions)
        for held in positions:
            known, still = before.get(held.place, (-1, 0.0))
            waits = known == held.offset and held.lag > 0 and not busy
            self._seen[held.place] = (
                held.offset,
                still + (BESIDE_OTHERS if moved else 1.0) if waits else 0.0,
            )
        return [held for held in positions if self._seen[held.place][1] >= self._looks]
