"""Provenance of an answer at a site: told with it in every way of calling, and in its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penstock.contracts.dataplane import Degraded


@dataclass(frozen=True)
class Provenance:
    prediction: str  # id of its record
    served_by: Literal["site", "cloud"]
    confidence: float | None  # the lowest of its rows; None of an answer without classes
    degraded: Degraded | None

    def tell(self, response: Any) -> None:
        """Writes it among the parameters of a ModelInferResponse: a third of what as many more metadata
        take of a call.
        """
        parameters = response.parameters
        parameters["served_by"].string_param = self.served_by
        if self.confidence is not None:
            parameters["confidence"].double_param = self.confidence
        if self.degraded:
            parameters["degraded"].string_param = self.degraded
