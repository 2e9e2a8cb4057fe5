"""Which consumers stand still: messages wait, the handler is idle, and none is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """Where a consumer is in one partition. `offset` is its next message."""

    topic: str
    partition: int
    offset: int
    lag: int


class Progress:
    """Of one consumer, look by look."""

    def __init__(self, stalled_after_s: float) -> None:
        self._stalled_after_s = stalled_after_s
        self._since: dict[tuple[str, int], tuple[int, float]] = {}

    def look(self, positions: Sequence[Position], *, busy: bool, now: float) -> list[Position]:
        """What it holds now, at `now` seconds of a clock that only rises; those that have stood still for too long.

        What is not among `positions`, as Kafka is away or the partition went to another replica, is judged anew when it is back.
        """
        since: dict[tuple[str, int], tuple[int, float]] = {}
        for held in positions:
            place = (held.topic, held.partition)
            offset, at = self._since.get(place, (held.offset, now))
            since[place] = (held.offset, now if offset != held.offset or held.lag == 0 or busy else at)
        self._since = since
        return [held for held in positions if now - since[held.topic, held.partition][1] > self._stalled_after_s]
