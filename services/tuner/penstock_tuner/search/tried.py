"""A trial as the search sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.contracts.space import Choices

__all__ = ["Choices", "Tried"]


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
