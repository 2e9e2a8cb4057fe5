"""A trial as the search sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from penstock.contracts.space import Choices

__all__ = ["ENSEMBLE", "Choices", "Tried"]

ENSEMBLE = "ensemble"  # the one choice of a trial that averages others: their numbers


@dataclass(frozen=True)
class Tried:
    """A trial of this study, or, with a number below 0, of an earlier one."""

    number: int
    choices: Choices
    """{} of trial 0, which has the file's own values."""
    state: Literal["running", "complete", "failed", "pruned"]
    values: tuple[float, ...] | None = None
    """Objectives of a complete trial, each the less the better."""
    losses: tuple[float, ...] = ()
    """Validation loss of a complete trial by groups of entities."""
    rungs: tuple[float, ...] = ()
    """Validation losses at the pruner's rungs that it has reached."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measures of a complete trial."""

    @property
    def members(self) -> tuple[int, ...]:
        """Trials whose models it averages; none of one that has a model of its own."""
        numbers = self.choices.get(ENSEMBLE)
        return tuple(int(str(number)) for number in numbers) if isinstance(numbers, list) else ()

    @property
    def latency_us(self) -> float:
        return self.metrics.get("latency_us", 0.0)
