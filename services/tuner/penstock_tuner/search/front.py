"""Pareto fronts: trials to which none is better in all objectives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from penstock_tuner.search.tried import Tried

Values = npt.NDArray[np.float64]


def front(tried: Sequence[Tried]) -> list[Tried]:
    """Complete trials of this study that no other dominates, by number; of equal ones all."""
    complete = sorted(
        (one for one in tried if one.state == "complete" and one.number >= 0), key=lambda one: one.number
    )
    values = np.array([one.values for one in complete])
    return [one for one in complete if not _dominated(np.array(one.values), values)]


def _dominated(one: Values, others: Values) -> bool:
    return bool(((others <= one).all(axis=1) & (others < one).any(axis=1)).any())


def ranks(values: Values) -> npt.NDArray[np.int64]:
    """Peels fronts off the rows [trials, objectives]: 0 is the best, 1 the best of the rest."""
    found = np.full(len(values), -1)
    level = 0
    while (left := np.flatnonzero(found < 0)).size:
        rest = values[left]
        no_worse = (rest[:, None] <= rest[None]).all(axis=2)
        better = (rest[:, None] < rest[None]).any(axis=2)
        found[left[~(no_worse & better).any(axis=0)]] = level
        level += 1
    return found


def crowding(values: Values, rank: npt.NDArray[np.int64]) -> Values:
    """Distances to the neighbours on each row's own front, summed over objectives; infinite at its ends."""
    found = np.zeros(len(values))
    for level in range(int(rank.max()) + 1):
        rows = np.flatnonzero(rank == level)
        for column in values[rows].T:
            order = np.argsort(column, kind="stable")
            width = column[order[-1]] - column[order[0]]
            gaps = (column[order[2:]] - column[order[:-2]]) / (width or 1.0)
            found[rows[order]] += np.concatenate([[np.inf], gaps, [np.inf]])[: len(rows)]
    return found
