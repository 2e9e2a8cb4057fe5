"""A model's answers on the rows of a split, beside their labels: all that a measure reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.measures import Task

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

ABSTAINED = -1
"""The code in `Scores.decisions` of a row on which the model declined to decide."""

_ROUNDED = 4 * 2.0**-24
"""Four roundings of a 32-bit float, relative: of a sum and a product, there and back."""


@dataclass(frozen=True)
class Scores:
    """N rows. A classifier has `probabilities` [N, k], a regression has `values` [N]."""

    task: Task
    labels: Floats  # [N]: class index, or the true number.
    units: Codes  # [N]: the entity of each row, from 0; the bootstrap draws entities.
    classes: tuple[str, ...] = ()  # Names, where they are known
    probabilities: Floats | None = None
    # [N]: class index as the graph decided it (its threshold and abstaining included), or
    # ABSTAINED; without it the likeliest class counts.
    decisions: Codes | None = None
    values: Floats | None = None
    intervals: Floats | None = None  # [N, 2]: around `values`, where the model gives some

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classifies(self) -> bool:
        return self.task != "regression"

    @property
    def said(self) -> Floats:
        """Probabilities [N, k] of a classifier, values [N] of a regression."""
        said = self.probabilities if self.classifies else self.values
        assert said is not None, f"scores of a {self.task} model without what it said"
        return said

    @property
    def label_codes(self) -> Codes:
        """[N]: class index of each row's label; 0 throughout for a regression, whose rows are one class."""
        return self.labels.astype(np.int64) if self.classifies else np.zeros(len(self), np.int64)

    @property
    def chosen(self) -> Codes:
        """[N]: the class that each row got, or ABSTAINED."""
        return self.decisions if self.decisions is not None else self.said.argmax(axis=1)

    @property
    def of_interest(self) -> tuple[int, ...]:
        """Classes that are taken against the rest: the positive one, or each of several."""
        return (1,) if self.task == "binary" else tuple(range(self.said.shape[1]))

    def take(self, rows: Codes) -> Scores:
        """Some of the rows, their entities numbered anew, in the same order."""
        return Scores(
            task=self.task,
            labels=self.labels[rows],
            units=np.unique(self.units[rows], return_inverse=True)[1].astype(np.int64),
            classes=self.classes,
            probabilities=None if self.probabilities is None else self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            values=None if self.values is None else self.values[rows],
            intervals=None if self.intervals is None else self.intervals[rows],
        )

    @classmethod
    def of_numbers(
        cls, labels: Floats, units: Codes, values: Floats, intervals: Floats | None = None
    ) -> Scores:
        """Scores of a regression. labels, values: [N]; intervals: [N, 2], as a graph gives them.

        An end that differs from its row's label by rounding alone is that label: where many labels are
        one number, as 0 of a count, whole shares of rows would lie inside or outside by chance.
        """
        if intervals is not None:
            truth = labels[:, None]
            slack = _ROUNDED * (np.abs(labels.mean()) + labels.std()) if len(labels) else 0.0
            intervals = np.where(np.abs(intervals - truth) <= slack, truth, intervals)
        return cls("regression", labels, units, values=values, intervals=intervals)

    @classmethod
    def pooled(cls, parts: Sequence[Scores]) -> Scores:
        """Several models' scores of one task as one, on rows of different entities."""
        units = np.cumsum([0, *(int(part.units.max(initial=-1)) + 1 for part in parts)])

        def beside(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if columns[0] is None else np.concatenate(columns)

        return cls(
            task=parts[0].task,
            labels=beside("labels"),
            units=np.concatenate([part.units + at for part, at in zip(parts, units, strict=False)]),
            classes=parts[0].classes,
            probabilities=beside("probabilities"),
            decisions=beside("decisions"),
            values=beside("values"),
            intervals=beside("intervals"),
        )
