"""How differently the model treats groups: rates by group, and the fairness notions that compare them.

The reported estimates are fairlearn's (`by_fairlearn`). The bootstrap needs a thousand of each, so
the same notions stand here once more, for many weightings at once; tests hold that both agree. With
more than two classes each class is taken against the rest and the worst counts.

Sources: demographic parity and its ratio (four-fifths rule), Feldman et al. 2015; equalized odds
and equal opportunity, Hardt, Price and Srebro 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_ethics_audit.groups import Grouping
from penstock_ethics_audit.scores import Floats, Scores

NOTIONS = (
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equal_opportunity_difference",
)


@dataclass(frozen=True)
class Rates:
    """[R, groups, classes of interest] each; NaN where a group has no such row."""

    selection: Floats
    """Share of rows that got the class."""
    true_positive: Floats
    """…of those whose label it is."""
    false_positive: Floats
    """…of those whose label it is not."""


def rates(scores: Scores, grouping: Grouping) -> Callable[[Floats], Rates]:
    """Rates as a function of weights [R, N]. A row on which the model abstained did not get the class."""
    assert scores.decisions is not None
    truth, decisions = scores.labels.astype(np.int64), scores.decisions
    members = [grouping.rows(group) for group in range(len(grouping.groups))]
    matrices = []
    for rows in members:
        columns = []
        for c in scores.of_interest:
            hit, chosen = truth[rows] == c, decisions[rows] == c
            columns += [np.ones(len(rows)), chosen, hit, hit & chosen]
        matrices.append(np.stack(columns, axis=1).astype(np.float64))

    def measure(weights: Floats) -> Rates:
        counts = np.stack(
            [weights[:, rows] @ matrix for rows, matrix in zip(members, matrices, strict=True)], axis=1
        )
        total, chosen, hit, both = np.moveaxis(counts.reshape(*counts.shape[:2], -1, 4), -1, 0)
        return Rates(_share(chosen, total), _share(both, hit), _share(chosen - both, total - hit))

    return measure


def contrasts(notion: str, of: Rates) -> Floats:
    """[R, C]: what a notion compares, two groups at a time.

    A difference notion is the largest absolute contrast; the ratio is the smallest, and comes with
    each pair in both directions.
    """
    match notion:
        case "demographic_parity_difference":
            return _pairwise(of.selection)
        case "equal_opportunity_difference":
            return _pairwise(of.true_positive)
        case "equalized_odds_difference":
            return np.concatenate([_pairwise(of.true_positive), _pairwise(of.false_positive)], axis=1)
        case "demographic_parity_ratio":
            return _ratios(of.selection)
    raise KeyError(notion)


def extreme(notion: str, compared: Floats) -> Floats:
    """[R]: the notion's value from its contrasts [R, C]."""
    if compared.shape[1] == 0:  # a single group differs from none
        return np.full(len(compared), 1.0 if is_ratio(notion) else 0.0)
    furthest: Floats = compared.min(axis=1) if is_ratio(notion) else np.abs(compared).max(axis=1)
    return furthest


def is_ratio(notion: str) -> bool:
    return notion.endswith("_ratio")


def by_fairlearn(scores: Scores, grouping: Grouping) -> dict[str, float]:
    """The notions as fairlearn computes them, over the rows whose group takes part."""
    from fairlearn import metrics  # a second of import, for the job alone

    assert scores.decisions is not None
    there = grouping.codes >= 0
    cells = np.stack(
        [scores.labels[there].astype(np.int64), scores.decisions[there], grouping.codes[there]], axis=1
    )
    # Equal rows as one with a weight: the same numbers, and fairlearn does not walk through every
    # row four times.
    distinct, weights = np.unique(cells, axis=0, return_counts=True)
    truth, decisions, codes = distinct.T
    values = {
        notion: [
            float(
                getattr(metrics, notion)(
                    (truth == c).astype(int),
                    (decisions == c).astype(int),
                    sensitive_features=codes,
                    sample_weight=weights,
                )
            )
            for c in scores.of_interest
        ]
        for notion in NOTIONS
    }
    return {
        notion: min(of_class) if is_ratio(notion) else max(of_class) for notion, of_class in values.items()
    }


def _pairs(groups: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    first, second = np.triu_indices(groups, 1)
    return first, second


def _pairwise(rate: Floats) -> Floats:
    first, second = _pairs(rate.shape[1])
    return (rate[:, first] - rate[:, second]).reshape(len(rate), -1)


def _ratios(rate: Floats) -> Floats:
    first, second = _pairs(rate.shape[1])
    low, high = rate[:, np.concatenate([first, second])], rate[:, np.concatenate([second, first])]
    # Nobody selected on either side is parity; a group of whom nobody is selected shows in the
    # pair's other direction.
    compared: Floats = np.divide(low, high, out=np.where(low > 0, np.inf, 1.0), where=high > 0)
    compared[np.isnan(low) | np.isnan(high)] = np.nan
    return compared.reshape(len(rate), -1)


def _share(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares
