"""Measures over all rows. Each is one function, named as in `penstock.contracts.measures`, that
prepares the measure for some scores.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.contracts import measures
from penstock.measures.scores import ABSTAINED, Codes, Floats, Scores
from penstock.measures.weighted import BLOCK, Meter, Meters, Summed, Weights, mean, ratio, sums, together

CALIBRATION_BINS = 10

Formula = Callable[[Scores], Meter | None]
"""None: there is nothing to say about these rows, the measure is left out."""
FORMULAS: dict[str, Formula] = {}


def formula(prepare: Formula) -> Formula:
    """Registers the function under its name."""
    FORMULAS[prepare.__name__] = prepare
    return prepare


def performance(scores: Scores) -> Meters:
    """Prepares all measures that fit the task, in the table's order. Rows are sorted once, for those
    that need an order.
    """
    order = np.argsort(confidence(scores)[0] if scores.classifies else scores.said, kind="stable")
    rising = scores.take(order)
    prepared = {measure.name: FORMULAS[measure.name](rising) for measure in measures.over_rows(scores.task)}
    measure = together({name: meter for name, meter in prepared.items() if meter is not None})
    return lambda weights: measure(weights[:, order])


def proportions(scores: Scores) -> dict[str, tuple[float, float]]:
    """Hits and rows of the measures that are a share of rows: accuracy, coverage, …"""
    found = {}
    for measure in measures.over_rows(scores.task):
        meter = FORMULAS[measure.name](scores) if measure.range == (0, 1) else None
        if isinstance(meter, Summed) and meter.value is ratio and len(meter.columns) == 2:
            hits, rows = meter.columns
            if np.isin(hits, (0, 1)).all() and np.isin(rows, (0, 1)).all():
                found[measure.name] = (float(hits.sum()), float(rows.sum()))
    return found


# -- classes ---------------------------------------------------------------------------------------


@formula
def auroc(scores: Scores) -> Meter:
    classes = [ranks(scores.labels == c, scores.said[:, c]) for c in scores.of_interest]
    return lambda weights: np.mean([one(weights) for one in classes], axis=0)


@formula
def accuracy(scores: Scores) -> Meter:
    return Summed((scores.chosen == scores.labels, scores.chosen != ABSTAINED), ratio)


@formula
def f1(scores: Scores) -> Meter:
    return _over_classes(scores, lambda both, true, chosen: ratio(2 * both, true + chosen))


@formula
def precision(scores: Scores) -> Meter:
    return _over_classes(scores, lambda both, _true, chosen: ratio(both, chosen))


@formula
def log_loss(scores: Scores) -> Meter:
    """A probability of 0 counts as the smallest step from 1, 2.2e-16, as in scikit-learn."""
    of_truth = scores.said[np.arange(len(scores)), scores.labels.astype(np.int64)]
    return mean(-np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1.0)))


@formula
def brier(scores: Scores) -> Meter:
    if scores.task == "binary":
        return mean((scores.said[:, 1] - scores.labels) ** 2)
    happened = np.eye(scores.said.shape[1])[scores.labels.astype(np.int64)]
    return mean(((scores.said - happened) ** 2).sum(axis=1))


@formula
def calibration_error(scores: Scores) -> Meter:
    """Expected calibration error over bins of equal mass (Naeini, Cooper and Hauskrecht 2015)."""
    said, seen = confidence(scores)
    if not len(said):
        return _undefined
    order = _rising(said)
    gap = (said - seen)[order][None]
    bins = [*_changes(equal_mass_bins(said, CALIBRATION_BINS)[order]), len(said)]

    def measure(weights: Weights) -> Floats:
        drawn = weights[:, order]
        gaps = [sums(drawn[:, begin:end], gap[:, begin:end])[:, 0] for begin, end in pairwise(bins)]
        return ratio(np.abs(gaps).sum(axis=0), drawn.sum(axis=1))

    return measure


@formula
def abstained(scores: Scores) -> Meter | None:
    rows = scores.chosen == ABSTAINED
    return mean(rows) if rows.any() else None


# -- numbers ---------------------------------------------------------------------------------------


@formula
def rmse(scores: Scores) -> Meter:
    square = mean((scores.said - scores.labels) ** 2)
    return Summed(square.columns, lambda *sums: np.sqrt(square.value(*sums)))


@formula
def mae(scores: Scores) -> Meter:
    return mean(np.abs(scores.said - scores.labels))


@formula
def r2(scores: Scores) -> Meter:
    y = scores.labels - (scores.labels.mean() if len(scores) else 0.0)

    def value(square: Floats, total: Floats, squares: Floats, rows: Floats) -> Floats:
        spread = squares - ratio(total**2, rows)
        varies = spread > 1e-12 * np.maximum(squares, 1e-300)
        return 1 - ratio(square, np.where(varies, spread, 0.0))

    return Summed(((scores.said - scores.labels) ** 2, y, y**2, np.ones(len(y))), value)


@formula
def coverage(scores: Scores) -> Meter | None:
    if scores.intervals is None:
        return None
    low, high = scores.intervals.T
    return mean((low <= scores.labels) & (scores.labels <= high))


@formula
def interval_width(scores: Scores) -> Meter | None:
    return None if scores.intervals is None else mean(scores.intervals[:, 1] - scores.intervals[:, 0])


@formula
def mean_error(scores: Scores) -> Meter:
    return mean(scores.said - scores.labels)


# -- parts of several measures and of the report's pictures -------------------------------------


def _over_classes(scores: Scores, of: Callable[[Floats, Floats, Floats], Floats]) -> Meter:
    """The mean over classes of `of`: rows of the class that were given it, rows of the class, rows that
    were given it. A row on which the model abstained was given none.
    """
    columns = []
    for c in scores.of_interest:
        true, chosen = scores.labels == c, scores.chosen == c
        columns += [true & chosen, true, chosen]

    def value(*sums: Floats) -> Floats:
        by_class = [of(*sums[at : at + 3]) for at in range(0, len(sums), 3)]
        defined = ~np.isnan(by_class)
        return ratio(np.where(defined, by_class, 0.0).sum(axis=0), defined.sum(axis=0))

    return Summed(tuple(columns), value)


def ranks(positive: NDArray[np.bool_], score: Floats) -> Meter:
    """AUROC of one class: the weighted chance that a positive row scores above a negative one, ties
    counting one half (Mann and Whitney 1947). Both [N]; any score that rises with the chance of
    being positive.
    """
    if not len(score):
        return _undefined
    order = _rising(score)
    hit, starts = positive[order].astype(np.float64), _changes(score[order])
    begins = starts[np.r_[True, np.diff(starts // BLOCK) > 0]]  # a block holds whole ties
    within = np.split(starts, np.searchsorted(starts, begins[1:]))
    blocks = list(zip([*begins, len(hit)], [*begins[1:], len(hit)], within, strict=False))

    def measure(weights: Weights) -> Floats:
        ranked = weights[:, order]
        pairs, positives, negatives = np.zeros((3, len(weights)))
        for begin, end, runs in blocks:
            rows = ranked[:, begin:end].astype(np.float64, copy=False)
            above = rows * hit[begin:end]
            negative = rows - above
            if len(runs) < end - begin:  # ties
                above = np.add.reduceat(above, runs - begin, axis=1)
                negative = np.add.reduceat(negative, runs - begin, axis=1)
            below = np.cumsum(negative, axis=1)
            last = below[:, -1].copy()
            below -= negative / 2
            pairs += np.einsum("rn,rn->r", above, below)
            positive_rows = above.sum(axis=1)
            pairs += positive_rows * negatives
            positives += positive_rows
            negatives += last
        return ratio(pairs, positives * negatives)

    return measure


def _rising(score: Floats) -> Codes | slice:
    """Order in which the score rises; of rows that are in it already a slice, which copies nothing."""
    return slice(None) if (score[1:] >= score[:-1]).all() else np.argsort(score, kind="stable")


def _changes(values: NDArray[Any]) -> Codes:
    """Places where a run of equal neighbours begins."""
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]])


def _undefined(weights: Weights) -> Floats:
    return np.full(len(weights), np.nan)


def confidence(scores: Scores) -> tuple[Floats, Floats]:
    """Said and seen, [N] each: the positive class's probability and whether it came true, or the
    likeliest class's and whether it was right.
    """
    if scores.task == "binary":
        return scores.said[:, 1], scores.labels
    right = scores.said.argmax(axis=1) == scores.labels
    return scores.said.max(axis=1), right.astype(np.float64)


def equal_mass_bins(said: Floats, bins: int) -> NDArray[np.int64]:
    """[N]: the bin of each row, 0…bins-1; equal probabilities share a bin."""
    if not len(said):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, said, side="right").astype(np.int64)
