"""Rows of a publish by the place at which Kafka has their events."""

from __future__ import annotations

from array import array
from bisect import bisect_left


class Places:
    """Row by partition and offset, 16 bytes a row. A partition acknowledges its events in their order."""

    def __init__(self) -> None:
        self._by_partition: dict[int, tuple[array[int], array[int]]] = {}

    def add(self, partition: int, offset: int, row: int) -> None:
        offsets, rows = self._by_partition.setdefault(partition, (array("q"), array("q")))
        offsets.append(offset)
        rows.append(row)

    def row(self, partition: int, offset: int) -> int | None:
        """The row whose event lies there; None for the event of another publish."""
        offsets, rows = self._by_partition.get(partition, (array("q"), array("q")))
        at = bisect_left(offsets, offset)
        return rows[at] if at < len(offsets) and offsets[at] == offset else None

    def ends(self) -> list[tuple[int, int]]:
        """Partitions, each with the offset after its last event."""
        found = sorted(self._by_partition.items())
        return [(partition, max(offsets) + 1) for partition, (offsets, _) in found]
