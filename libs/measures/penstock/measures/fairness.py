"""Measures between groups: rates by group, and how far two groups' rates lie apart.

Each measure is one function, named as in `penstock.contracts.measures`, from the groups' rates to
contrasts, which compare two groups at a time. The measure is the worst contrast. With more than
two classes each class is taken against the rest.

Sources: demographic parity and its ratio (four-fifths rule), Feldman et al. 2015; equalized odds
and equal opportunity, Hardt, Price and Srebro 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from penstock.contracts.measures import MEASURES
from penstock.measures.scores import Codes, Floats, Scores
from penstock.measures.weighted import ratio


@dataclass(frozen=True)
class Rates:
    """[R, groups, classes of interest] each; NaN where a group has no such row."""

    selection: Floats  # Share of rows that got the class
    true_positive: Floats  # Share of those whose label it is
    false_positive: Floats  # Share of those whose label it is not

    def among(self, groups: Codes) -> Rates:
        """Rates of some of the groups."""
        return Rates(self.selection[:, groups], self.true_positive[:, groups], self.false_positive[:, groups])


Contrast = Callable[[Rates], Floats]
"""Contrasts [R, C]: signed differences; or ratios, each pair in both directions."""
CONTRASTS: dict[str, Contrast] = {}


def contrast(compare: Contrast) -> Contrast:
    """Registers the function under its name."""
    CONTRASTS[compare.__name__] = compare
    return compare


@cache
def reads(name: str) -> frozenset[str]:
    """Names of the rates that the measure depends on: those without which its contrasts are undefined."""
    known = {"selection": 0.5, "true_positive": 0.5, "false_positive": 0.5}
    values = {rate: np.full((1, 2, 1), value) for rate, value in known.items()}
    without = {rate: Rates(**{**values, rate: np.full((1, 2, 1), np.nan)}) for rate in known}
    return frozenset(rate for rate, of in without.items() if np.isnan(CONTRASTS[name](of)).any())


def rates(scores: Scores, groups: Codes) -> Callable[[Floats], Rates]:
    """Prepares the rates of each group as a function of weights [R, N].

    `groups` [N]: codes from 0, negative where a row takes no part. A row on which the model
    abstained did not get the class.
    """
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max(initial=-1)) + 1)]
    columns = []
    for c in scores.of_interest:
        hit, chosen = scores.labels == c, scores.chosen == c
        columns += [np.ones(len(scores)), chosen, hit, hit & chosen]
    matrix = np.stack(columns, axis=1).astype(np.float64)
    matrices = [matrix[rows] for rows in members]

    def measure(weights: Floats) -> Rates:
        counts = np.stack(
            [weights[:, rows] @ matrix for rows, matrix in zip(members, matrices, strict=True)], axis=1
        )
        total, chosen, hit, both = np.moveaxis(counts.reshape(*counts.shape[:2], -1, 4), -1, 0)
        return Rates(ratio(chosen, total), ratio(both, hit), ratio(chosen - both, total - hit))

    return measure


# -- the measures ----------------------------------------------------------------------------------


@contrast
def demographic_parity_difference(of: Rates) -> Floats:
    return differences(of.selection)


@contrast
def demographic_parity_ratio(of: Rates) -> Floats:
    return ratios(of.selection)


@contrast
def equalized_odds_difference(of: Rates) -> Floats:
    return np.concatenate([differences(of.true_positive), differences(of.false_positive)], axis=1)


@contrast
def equal_opportunity_difference(of: Rates) -> Floats:
    return differences(of.true_positive)


# -- parts of the measures -------------------------------------------------------------------------


def extreme(name: str, contrasts: Floats) -> Floats:
    """[R]: the measure's value from its contrasts [R, C]: the largest absolute difference, or the
    smallest ratio; parity where there is no contrast, as with a single group.
    """
    measure = MEASURES[name]
    worst: Floats = (
        contrasts.min(axis=1, initial=measure.best)
        if measure.higher_is_better
        else np.abs(contrasts).max(axis=1, initial=measure.best)
    )
    return worst


def differences(rate: Floats) -> Floats:
    """[R, pairs x classes] of a rate [R, groups, classes]."""
    first, second = np.triu_indices(rate.shape[1], 1)
    return (rate[:, first] - rate[:, second]).reshape(len(rate), -1)


def ratios(rate: Floats) -> Floats:
    """[R, 2 x pairs x classes] of a rate [R, groups, classes]; infinite where nothing is divided by."""
    above, below = both_ways(rate)
    compared: Floats = np.divide(above, below, out=np.full(above.shape, np.inf), where=below > 0)
    compared[np.isnan(above) | np.isnan(below)] = np.nan
    return compared.reshape(len(rate), -1)


def both_ways(rate: Floats) -> tuple[Floats, Floats]:
    """Both sides [R, 2 x pairs, classes] of each pair of groups, in both directions."""
    first, second = np.triu_indices(rate.shape[1], 1)
    return rate[:, np.concatenate([first, second])], rate[:, np.concatenate([second, first])]
