"""Confidence of a prediction: its distance to the nearest decision's edge, from 0 on the edge to 1.

Two classes: the edge is the threshold, seldom 0.5, so each side is scaled by its own length. More
classes: the margin between the first two, by which active learning asks for labels (Settles, Active
Learning Literature Survey, 2009, section 3.1; Scheffer et al., 2001). The ends of the interval in
which a version abstains are edges as well, and inside it there is no confidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True)
class Edges:
    """Places at which a version's decision changes."""

    threshold: float | None
    """Probability of the second of two classes; None: the likeliest class is decided."""
    abstains: tuple[float, float] | None = None
    """Closed interval of that probability, or of the likeliest class's."""

    def confidences(self, rows: Iterable[Sequence[float]]) -> list[float]:
        """Confidence of each row of probabilities, one a class."""
        return [self._of(row) for row in rows]

    def _of(self, row: Sequence[float]) -> float:
        if any(map(isnan, row)):
            return 0.0
        if self.threshold is not None:
            weighed, nearest = row[1], _distance(row[1], self.threshold)
        else:
            weighed, second = sorted(row, reverse=True)[:2] if len(row) > 1 else (row[0], 0.0)
            nearest = weighed - second
        if self.abstains:
            low, high = self.abstains
            if low <= weighed <= high:
                return 0.0
            nearest = min(nearest, _distance(weighed, low), _distance(weighed, high))
        return min(max(nearest, 0.0), 1.0)


def _distance(probability: float, edge: float) -> float:
    # As a share of the way from the edge to the end on this side.
    side = 1.0 - edge if probability >= edge else edge
    return abs(probability - edge) / side if side > 0 else 0.0
