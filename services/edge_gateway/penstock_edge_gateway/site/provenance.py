"""Provenance of an answer at a site: told beside it in every way of calling, and in its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.contracts.dataplane import Degraded
from penstock.serving.records import (
    CONFIDENCE_HEADER,
    DEGRADED_HEADER,
    PREDICTION_HEADER,
    SERVED_BY_HEADER,
)


@dataclass(frozen=True)
class Provenance:
    prediction: str  # id of its record
    served_by: Literal["site", "cloud"]
    confidence: float | None  # the lowest of its rows; None of an answer without classes
    degraded: Degraded | None

    def headers(self) -> tuple[tuple[str, str], ...]:
        """For HTTP, or gRPC's trailing metadata."""
        said = [(PREDICTION_HEADER, self.prediction), (SERVED_BY_HEADER, self.served_by)]
        if self.confidence is not None:
            said.append((CONFIDENCE_HEADER, f"{self.confidence:.4f}"))
        if self.degraded:
            said.append((DEGRADED_HEADER, self.degraded))
        return tuple(said)
