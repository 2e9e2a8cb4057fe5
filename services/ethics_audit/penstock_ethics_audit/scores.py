"""What the model said about the rows of the audit split: the one thing that all measures read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Task = Literal["binary", "multiclass", "regression"]

ABSTAINED = -1
"""In `Scores.decisions`: the model declined to decide."""


@dataclass(frozen=True)
class Scores:
    """N rows. A classifier has `probabilities` [N, k] and `decisions` [N], a regression has `values` [N]."""

    task: Task
    labels: Floats
    """[N]: class index, or the true number."""
    units: Codes
    """[N]: which entity a row belongs to, 0…; the bootstrap draws entities."""
    classes: tuple[str, ...] = ()
    probabilities: Floats | None = None
    decisions: Codes | None = None
    """[N]: class index as decided by the graph itself (its threshold and abstaining included), or
    ABSTAINED.
    """
    values: Floats | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classifies(self) -> bool:
        return self.task != "regression"

    @property
    def of_interest(self) -> tuple[int, ...]:
        """The classes whose rates are compared: the positive one, or each against the rest."""
        return (1,) if self.task == "binary" else tuple(range(len(self.classes)))

    def take(self, rows: Codes) -> Scores:
        return Scores(
            task=self.task,
            labels=self.labels[rows],
            units=self.units[rows],
            classes=self.classes,
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            values=None if self.values is None else self.values[rows],
        )
