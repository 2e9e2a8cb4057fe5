"""How good the model is on a set of rows, as functions of row weights.

Every measure is computed for many weightings at once: `weights` [R, n] holds how often each of the
n rows was drawn in each of R resamples. A row of ones gives the estimate itself, so estimate and
interval come from one formula.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock_ethics_audit.scores import ABSTAINED, Floats, Scores

CALIBRATION_BINS = 10

Measures = dict[str, Floats]
"""By name: [R], NaN where a measure is undefined (no row of one class, no decided row)."""
Meter = Callable[[Floats], Measures]


def estimate(meter: Meter, rows: int) -> dict[str, float]:
    return {name: float(value[0]) for name, value in meter(np.ones((1, rows))).items()}


def performance(scores: Scores) -> Meter:
    """The measures that fit the task, prepared for `scores`.

    Binary: AUROC, accuracy, F1, log loss, Brier score, calibration error. Multiclass: the same,
    AUROC and F1 as the plain mean over classes (one against the rest), Brier as the sum over
    classes, calibration of the likeliest class. Regression: RMSE, MAE, R², mean error. Accuracy
    counts decided rows only; a row on which the model abstained is F1's "not this class".
    """
    return _classification(scores) if scores.classifies else _regression(scores)


def _classification(scores: Scores) -> Meter:
    assert scores.probabilities is not None
    assert scores.decisions is not None
    truth = scores.labels.astype(np.int64)
    p = scores.probabilities
    decided = scores.decisions != ABSTAINED
    columns: dict[str, Floats] = {
        "decided": decided.astype(np.float64),
        "correct": (scores.decisions == truth).astype(np.float64),
        "log_loss": -np.log(np.clip(p[np.arange(len(truth)), truth], np.finfo(np.float64).eps, 1.0)),
        "brier": (p[:, 1] - truth) ** 2
        if scores.task == "binary"
        else ((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1),
    }
    for c in scores.of_interest:
        hit, chosen = truth == c, scores.decisions == c
        columns |= {
            f"true_{c}": hit.astype(float),
            f"chosen_{c}": chosen.astype(float),
            f"both_{c}": (hit & chosen).astype(float),
        }
    sums = _Sums(columns)
    ranks = [Auroc(truth == c, p[:, c]) for c in scores.of_interest]
    calibration = _CalibrationError(*confidence(scores))

    def measure(weights: Floats) -> Measures:
        of = sums(weights)
        total = weights.sum(axis=1)
        f1 = np.stack(
            [_ratio(2 * of[f"both_{c}"], of[f"true_{c}"] + of[f"chosen_{c}"]) for c in scores.of_interest]
        )
        return {
            "auroc": np.mean([rank(weights) for rank in ranks], axis=0),
            "accuracy": _ratio(of["correct"], of["decided"]),
            "f1": _mean_of_defined(f1),
            "log_loss": _ratio(of["log_loss"], total),
            "brier": _ratio(of["brier"], total),
            "calibration_error": calibration(weights),
        } | ({} if decided.all() else {"abstained": 1 - _ratio(of["decided"], total)})

    return measure


def _regression(scores: Scores) -> Meter:
    assert scores.values is not None
    y = scores.labels
    error = scores.values - y
    centered = y - y.mean() if len(y) else y
    sums = _Sums(
        {"square": error**2, "absolute": np.abs(error), "error": error, "y": centered, "yy": centered**2}
    )

    def measure(weights: Floats) -> Measures:
        of = sums(weights)
        total = weights.sum(axis=1)
        spread = of["yy"] - _ratio(of["y"] ** 2, total)
        return {
            "rmse": np.sqrt(_ratio(of["square"], total)),
            "mae": _ratio(of["absolute"], total),
            "r2": 1
            - _ratio(of["square"], np.where(spread > 1e-12 * np.maximum(of["yy"], 1e-300), spread, 0.0)),
            "mean_error": _ratio(of["error"], total),
        }

    return measure


class Auroc:
    """The weighted probability that a positive row scores above a negative one, ties counting one
    half (Mann and Whitney 1947).
    """

    def __init__(self, positive: NDArray[np.bool_], score: Floats) -> None:
        self._order = np.argsort(score, kind="stable")
        ranked = score[self._order]
        self._positive = positive[self._order].astype(np.float64)
        starts = (
            np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
            if len(ranked)
            else np.zeros(0, dtype=np.int64)
        )
        self._ties = starts if len(starts) < len(ranked) else None

    def __call__(self, weights: Floats) -> Floats:
        if not len(self._order):
            return np.full(len(weights), np.nan)
        ranked = weights[:, self._order]
        positive = ranked * self._positive
        negative = ranked - positive
        if self._ties is not None:
            positive = np.add.reduceat(positive, self._ties, axis=1)
            negative = np.add.reduceat(negative, self._ties, axis=1)
        below = np.cumsum(negative, axis=1)
        negatives = below[:, -1].copy()
        below -= negative / 2
        return _ratio(np.einsum("rn,rn->r", positive, below), positive.sum(axis=1) * negatives)


class _CalibrationError:
    """Expected calibration error over bins of equal mass (Naeini, Cooper and Hauskrecht 2015): mean
    distance of said from seen.
    """

    def __init__(self, said: Floats, seen: Floats) -> None:
        self._bins = np.zeros((len(said), CALIBRATION_BINS))
        self._bins[np.arange(len(said)), equal_mass_bins(said, CALIBRATION_BINS)] = said - seen

    def __call__(self, weights: Floats) -> Floats:
        return _ratio(np.abs(weights @ self._bins).sum(axis=1), weights.sum(axis=1))


def confidence(scores: Scores) -> tuple[Floats, Floats]:
    """What was said and what was seen: the positive class's probability, or the likeliest class's
    and whether it was right.
    """
    assert scores.probabilities is not None
    if scores.task == "binary":
        return scores.probabilities[:, 1], scores.labels
    likeliest = scores.probabilities.argmax(axis=1)
    return scores.probabilities.max(axis=1), (likeliest == scores.labels).astype(np.float64)


def equal_mass_bins(said: Floats, bins: int) -> NDArray[np.int64]:
    """[n]: the bin of each row, 0…bins-1; equal probabilities share a bin."""
    if not len(said):
        return np.zeros(0, dtype=np.int64)
    edges = np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, said, side="right").astype(np.int64)


class _Sums:
    """Weighted sums of several columns in one matrix product."""

    def __init__(self, columns: dict[str, Floats]) -> None:
        self._names = tuple(columns)
        self._matrix = np.stack(list(columns.values()), axis=1)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        return dict(zip(self._names, (weights @ self._matrix).T, strict=True))


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    shares: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return shares


def _mean_of_defined(values: Floats) -> Floats:
    """Over the first axis; NaN where none is defined."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0).astype(np.float64))
