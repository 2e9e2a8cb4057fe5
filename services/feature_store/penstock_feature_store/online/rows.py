"""An entity's row of one source, and the event behind it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

Scalar = float | str | bool | None


class Origin(NamedTuple):
    """The event behind a row. Compares as rows replace one another."""

    time_us: int
    offset: int
    partition: int
    event_id: str

    def __str__(self) -> str:
        return " ".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> Origin:
        time_us, offset, partition, event_id = text.split(" ", 3)
        return cls(int(time_us), int(offset), int(partition), event_id)

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.time_us)


class Row(NamedTuple):
    """Values by field; missing ones are None."""

    status: Literal["found", "not_found", "expired"]
    origin: Origin | None
    values: Mapping[str, Scalar]
