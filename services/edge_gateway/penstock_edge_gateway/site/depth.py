"""Depth of a spool: what waits, and how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Depth:
    records: int
    bytes: int
    size: int  # bytes at most
    oldest_s: float | None  # age of the oldest, in seconds while the machine was on
    dropped: int  # since the file was made

    @property
    def full_in_s(self) -> float | None:
        """Seconds until it is full, if it goes on as since its oldest record."""
        return None if self.oldest_s is None else self.oldest_s * max(0.0, self.size / self.bytes - 1)
