"""Pace of a run: who trains, how fast, and what holds it up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

NOTABLE = 0.2  # share of the time from which a wait is worth a word


class Pace(BaseModel, frozen=True):
    """`because`: why so many workers, where that was measured. Of the newest epoch, of worker 0: rows a
    second, and the shares of its time that went into cutting batches and into waiting for others.
    """

    workers: int = 1
    because: str = ""
    rows_per_s: float = 0.0
    data_share: float = 0.0
    communication_share: float = 0.0

    def at(self, epoch: Mapping[str, Any]) -> Pace:
        """The pace of that epoch; this one where it was not timed."""
        if not (took := epoch.get("took_s")):
            return self
        told = {
            "rows_per_s": epoch["rows"] / took,
            "data_share": epoch["data_s"] / took,
            "communication_share": epoch["communication_s"] / took,
        }
        return self.model_copy(update=told)

    @property
    def bottleneck(self) -> str:
        """The part that takes most of the time, in words; "" where none was timed."""
        if not self.rows_per_s:
            return ""
        if self.communication_share >= max(NOTABLE, self.data_share):
            return f"waits for the other workers {self.communication_share:.0%} of the time"
        if self.data_share >= NOTABLE:
            return f"waits for data {self.data_share:.0%} of the time"
        return f"computes {1 - self.data_share - self.communication_share:.0%} of the time"
