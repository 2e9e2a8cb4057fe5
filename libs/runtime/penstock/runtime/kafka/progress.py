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
        now = {(held.topic, held.partition): held for held in positions}
        moved = any(before.get(place, (held.offset, 0))[0] != held.offset for place, held in now.items())
        for place, held in now.items():
            known, still = before.get(place, (-1, 0.0))
            waits = known == held.offset and held.lag > 0 and not busy
            self._seen[place] = held.offset, (still + (BESIDE_OTHERS if moved else 1.0) if waits else 0.0)
        return [held for place, held in now.items() if self._seen[place][1] >= self._looks]
