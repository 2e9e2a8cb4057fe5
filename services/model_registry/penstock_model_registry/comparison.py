"""Champion against challenger: how much worse the challenger could be.

Both were scored by their own audits on their own audit splits, rows that neither was trained on.
Compared are the rows in both splits, row by row. With fewer than MIN_PAIRED_ROWS in common (a split
by time, say) the two splits are drawn independently: as honest, and wider, so a challenger must be
better by more. `penstock.measures.comparison` has the measure, the draws and the interval, at the
pipeline's `audit.confidence`; its upper end is what the registry judges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.errors import Invalid
from penstock.contracts.measures import MEASURES, Task, over_rows
from penstock.measures.comparison import worse_by
from penstock.measures.scores import Scores
from penstock_model_registry.promotion import Drop

MIN_PAIRED_ROWS = 100
MAX_ROWS = 100_000
"""More rows than these are thinned, by row hash: the same rows for both."""
MAX_DRAWS = 20_000_000
"""Rows times resamples: about a second."""
MIN_RESAMPLES = 200


@dataclass(frozen=True)
class Scored:
    """A model's scores on its audit split, with the identity of each row."""

    rows: NDArray[np.bytes_]
    """[N] hashed identities, each once."""
    scores: Scores

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[np.intp]) -> Scored:
        return Scored(self.rows[index], self.scores.take(index))


def compare(
    champion: Scored, challenger: Scored, metric: str, *, confidence: float, resamples: int, seed: int = 7
) -> Drop:
    """Measures how much worse `challenger` is by `metric`. Raises Invalid where the metric does not fit
    the scores or is undefined on these rows.
    """
    first, second = _common(champion, challenger)
    paired = len(first) >= MIN_PAIRED_ROWS
    if not paired:
        first, second = _thin(champion), _thin(challenger)
    _check_fits(metric, first.scores.task)
    _check_fits(metric, second.scores.task)
    affordable = MAX_DRAWS // max(len(first), len(second), 1)
    interval = worse_by(
        metric,
        first.scores,
        second.scores,
        paired=paired,
        resamples=max(MIN_RESAMPLES, min(resamples, affordable)),
        confidence=confidence,
        seed=seed,
    )
    rows = min(len(first), len(second))
    if interval is None:
        raise Invalid(
            f"{metric} cannot be compared on {rows} audit rows",
            remedy=(
                "Give the audit split more rows, choose another promotion.metric, or set `promotion:"
                " {compare: none}`"
            ),
        )
    return Drop(metric, interval, rows=rows, paired=paired)


def _common(champion: Scored, challenger: Scored) -> tuple[Scored, Scored]:
    """The rows that both were scored on and whose label has not changed between, ordered by entity."""
    _, left, right = np.intersect1d(champion.rows, challenger.rows, assume_unique=True, return_indices=True)
    same = champion.scores.labels[left] == challenger.scores.labels[right]
    kept = slice(0, MAX_ROWS)  # intersect1d sorts by hash, so a prefix is a random part
    left, right = left[same][kept], right[same][kept]
    order = np.argsort(champion.scores.units[left], kind="stable")
    return champion.take(left[order]), challenger.take(right[order])


def _thin(scored: Scored) -> Scored:
    """Keeps at most MAX_ROWS rows, ordered by entity."""
    kept = np.argsort(scored.rows)[:MAX_ROWS]
    return scored.take(kept[np.argsort(scored.scores.units[kept], kind="stable")])


def _check_fits(metric: str, task: Task) -> None:
    if task in MEASURES[metric].promotion:
        return
    held = {
        "binary": "probabilities of two classes",
        "multiclass": "probabilities of several classes",
        "regression": "values and no probabilities",
    }[task]
    fitting = ", ".join(measure.name for measure in over_rows(task) if task in measure.promotion)
    raise Invalid(
        f"{metric} cannot be compared: the audit's scores hold {held}",
        where="promotion.metric",
        remedy=f"Use one of {fitting}",
    )
