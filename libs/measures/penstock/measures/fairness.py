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
from typing import Final, Literal

import numpy as np

from penstock.contracts.measures import MEASURES
from penstock.measures.scores import ABSTAINED, Codes, Floats, Scores
from penstock.measures.weighted import Weights, ratio


@dataclass(frozen=True)
class Counted:
    """Rows of each group by class [R, groups, classes of interest]; those of any class [R, groups, 1]."""

    total: Floats
    labelled: Floats  # Those whose label is the class
    chosen: Floats  # Those that got the class
    both: Floats
    decided: Floats  # Those that got any class


@dataclass(frozen=True)
class Rate:
    """A share of a group's rows: of all, of those whose label is the class, or is not."""

    among: Literal["all", "positive", "negative"]
    hits: Callable[[Counted], Floats]
    # Rate of a model halfway between guessing and knowing (Cohen's kappa 0.5), which gives each class as
    # often as it occurs, from the shares of labels.
    fair: Callable[[Floats], Floats]
    title: str = ""  # Name in a report, which leaves out a rate without one

    def rows(self, total: Floats, labelled: Floats) -> Floats:
        """Rows that it is a share of."""
        return {"all": total, "positive": labelled, "negative": total - labelled}[self.among]


RATES: Final[dict[str, Rate]] = {
    "selection": Rate("all", lambda of: of.chosen, lambda share: share, "Selection rate"),
    "true_positive": Rate(
        "positive", lambda of: of.both, lambda share: (1 + share) / 2, "True positive rate"
    ),
    "false_positive": Rate(
        "negative", lambda of: of.chosen - of.both, lambda share: share / 2, "False positive rate"
    ),
    "nonselection": Rate("all", lambda of: of.decided - of.chosen, lambda share: 1 - share),
}
"""Rates by their names in `Rates`, and in its order."""


@dataclass(frozen=True)
class Rates:
    """[R, groups, classes of interest] each; NaN where a group has no such row."""

    selection: Floats  # Share of rows that got the class
    true_positive: Floats  # Share of those whose label it is
    false_positive: Floats  # Share of those whose label it is not
    nonselection: Floats  # Share of rows that got another class; those without a decision got none

    def among(self, groups: Codes) -> Rates:
        """Rates of some of the groups."""
        return Rates(**{name: rate[:, groups] for name, rate in vars(self).items()})


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
    values = {rate: np.full((1, 2, 1), 0.5) for rate in RATES}
    without = {rate: Rates(**{**values, rate: np.full((1, 2, 1), np.nan)}) for rate in RATES}
    return frozenset(rate for rate, of in without.items() if np.isnan(CONTRASTS[name](of)).any())


@dataclass(frozen=True)
class Tally:
    """N rows by cell: group x label x the class that they got, the last one for none."""

    cells: Codes  # [N]: each row's cell, counted through; negative where a row takes no part
    shape: tuple[int, int, int]  # groups, classes, classes + 1
    of_interest: tuple[int, ...]

    @property
    def counts(self) -> Codes:
        """[groups, classes, classes + 1]"""
        taking_part = self.cells[self.cells >= 0]
        return np.bincount(taking_part, minlength=int(np.prod(self.shape))).reshape(self.shape)

    def weighted(self, weights: Weights) -> Floats:
        """[R, groups, classes, classes + 1] of weights [R, N]."""
        rows = np.flatnonzero(self.cells >= 0)
        cells, size = self.cells[rows], int(np.prod(self.shape))
        counted = [np.bincount(cells, weights=drawn[rows], minlength=size) for drawn in weights]
        return np.array(counted, dtype=np.float64).reshape(-1, *self.shape)

    def rates(self, counts: Floats) -> Rates:
        """Rates of each group from counts [R, groups, classes, classes + 1]."""
        total = counts.sum(axis=(2, 3))[..., None]
        of = list(self.of_interest)
        hit, chosen = counts.sum(axis=3)[..., of], counts.sum(axis=2)[..., of]
        both, decided = counts[..., of, of], counts[..., :-1].sum(axis=(2, 3))[..., None]
        counted = Counted(total, hit, chosen, both, decided)
        return Rates(
            **{name: ratio(rate.hits(counted), rate.rows(total, hit)) for name, rate in RATES.items()}
        )


def tally(scores: Scores, groups: Codes) -> Tally:
    """Counts rows by group, label and decision. `groups` [N]: codes from 0, negative where a row takes no
    part. A row on which the model abstained got no class.
    """
    classes = scores.said.shape[1]
    chosen = np.where(scores.chosen == ABSTAINED, classes, scores.chosen)
    cells = (groups * classes + scores.label_codes) * (classes + 1) + chosen
    shape = (int(groups.max(initial=-1)) + 1, classes, classes + 1)
    return Tally(np.where(groups < 0, -1, cells), shape, scores.of_interest)


def rates(scores: Scores, groups: Codes) -> Callable[[Weights], Rates]:
    """Prepares the rates of each group as a function of weights [R, N], see `tally`."""
    of = tally(scores, groups)
    return lambda weights: of.rates(of.weighted(weights))


# -- the measures ----------------------------------------------------------------------------------


@contrast
def demographic_parity_difference(of: Rates) -> Floats:
    return differences(of.selection)


@contrast
def demographic_parity_ratio(of: Rates) -> Floats:
    return ratios(of.selection)


@contrast
def nonselection_ratio(of: Rates) -> Floats:
    return ratios(of.nonselection)


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
    """Sides [R, 2 x pairs, classes] of each pair of groups, in both directions."""
    first, second = np.triu_indices(rate.shape[1], 1)
    return rate[:, np.concatenate([first, second])], rate[:, np.concatenate([second, first])]
