"""Champion against challenger: how much worse the challenger could be.

Both were scored by their own audits on their own audit splits, rows that neither was trained on.
Compared are the rows in both splits, row by row: each resample draws the same rows for both, so
that what is hard for both cancels out (paired bootstrap; Efron and Tibshirani 1993, ch. 16). Where
one entity has several rows, entities are drawn. With fewer than MIN_PAIRED_ROWS in common (a split
by time, say) the two splits are drawn independently: as honest, and wider, so a challenger must be
better by more.

The interval is the percentile one at the pipeline's `audit.confidence`; its upper end is what the
registry judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.errors import Invalid
from penstock.contracts.events import Interval
from penstock.contracts.measures import MEASURES
from penstock_model_registry.promotion import Drop

MIN_PAIRED_ROWS = 100
MAX_ROWS = 100_000
"""More rows than these are thinned, by row hash: the same rows for both."""
MAX_DRAWS = 20_000_000
"""Rows times resamples: about a second."""
MIN_RESAMPLES = 200
_AT_ONCE = 2_000_000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """What a model said about the rows of its audit split, in the order of `rows`, each row once."""

    rows: NDArray[np.bytes_]
    """Hashed identities."""
    entities: NDArray[np.bytes_]
    """Hashed; rows of one entity are drawn together."""
    labels: Floats
    """Class index, or the true number."""
    probabilities: Floats | None = None
    """[N, k] of a classifier."""
    values: Floats | None = None
    """[N] of a regression."""
    decisions: Integers | None = None
    """[N] class index, negative where the model abstained; without it the likeliest class counts."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Integers) -> Scored:
        def of(values: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if values is None else values[index]

        return Scored(
            self.rows[index],
            self.entities[index],
            self.labels[index],
            of(self.probabilities),
            of(self.values),
            of(self.decisions),
        )


def compare(
    champion: Scored, challenger: Scored, metric: str, *, confidence: float, resamples: int, seed: int = 7
) -> Drop:
    """How much worse `challenger` is by `metric`. Raises Invalid where the metric is undefined on
    these rows.
    """
    first, second = _common(champion, challenger)
    paired = len(first) >= MIN_PAIRED_ROWS
    sign = 1.0 if MEASURES[metric].higher_is_better else -1.0
    generator = np.random.default_rng(seed)
    if paired:
        drawn = _differences(metric, first, second, generator, resamples)
        estimate = _measure(metric, first, np.ones((1, len(first)))) - _measure(
            metric, second, np.ones((1, len(second)))
        )
    else:
        first, second = _thin(champion), _thin(challenger)
        drawn = _draw(metric, first, generator, resamples) - _draw(metric, second, generator, resamples)
        estimate = _measure(metric, first, np.ones((1, len(first)))) - _measure(
            metric, second, np.ones((1, len(second)))
        )
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(estimate[0]) or len(defined) < 0.95 * len(drawn):
        raise Invalid(
            f"{metric} cannot be compared on {min(len(first), len(second))} audit rows",
            remedy=(
                "Give the audit split more rows, choose another promotion.metric, or set `promotion:"
                " {compare: none}`"
            ),
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(sign * defined, [tail, 1 - tail])
    interval = Interval(estimate=float(sign * estimate[0]), lower=float(low), upper=float(high))
    return Drop(metric, interval, rows=min(len(first), len(second)), paired=paired)


def _common(champion: Scored, challenger: Scored) -> tuple[Scored, Scored]:
    """The rows that both were scored on and whose label has not changed between, in one order."""
    _, left, right = np.intersect1d(champion.rows, challenger.rows, assume_unique=True, return_indices=True)
    same = champion.labels[left] == challenger.labels[right]
    kept = slice(0, MAX_ROWS)  # intersect1d sorts by hash, so a prefix is a random part
    return champion.take(left[same][kept]), challenger.take(right[same][kept])


def _thin(scored: Scored) -> Scored:
    return scored if len(scored) <= MAX_ROWS else scored.take(np.argsort(scored.rows)[:MAX_ROWS])


def _differences(
    metric: str, first: Scored, second: Scored, generator: np.random.Generator, resamples: int
) -> Floats:
    pieces = [
        _measure(metric, first, weights) - _measure(metric, second, weights)
        for weights in _weights(first, generator, resamples)
    ]
    return np.concatenate(pieces)


def _draw(metric: str, scored: Scored, generator: np.random.Generator, resamples: int) -> Floats:
    return np.concatenate(
        [_measure(metric, scored, weights) for weights in _weights(scored, generator, resamples)]
    )


def _weights(scored: Scored, generator: np.random.Generator, resamples: int) -> Iterator[Floats]:
    """Weights [r, N] in pieces: how often each row's entity was drawn."""
    _, units = np.unique(scored.entities, return_inverse=True)
    entities = int(units.max()) + 1
    resamples = max(MIN_RESAMPLES, min(resamples, MAX_DRAWS // len(scored)))
    at_once = max(1, _AT_ONCE // len(scored))
    for start in range(0, resamples, at_once):
        r = min(at_once, resamples - start)
        drawn = generator.integers(0, entities, size=(r, entities)) + np.arange(r)[:, None] * entities
        counts = np.bincount(drawn.ravel(), minlength=r * entities).reshape(r, entities)
        yield counts[:, units].astype(np.float64)


def _measure(metric: str, scored: Scored, weights: Floats) -> Floats:
    """[R]: the metric under each weighting; NaN where undefined."""
    match metric:
        case "auroc":
            return _auroc(scored, weights)
        case "accuracy":
            decisions = _decisions(scored)
            decided = (decisions >= 0).astype(np.float64)
            return _ratio(weights @ (decisions == scored.labels).astype(np.float64), weights @ decided)
        case "log_loss":
            p = _probabilities(scored)[np.arange(len(scored)), scored.labels.astype(np.int64)]
            return _mean(-np.log(np.clip(p, np.finfo(np.float64).eps, 1.0)), weights)
        case "brier":
            return _mean((_probabilities(scored)[:, 1] - scored.labels) ** 2, weights)
        case "rmse":
            return np.sqrt(_mean((_values(scored) - scored.labels) ** 2, weights))
        case "mae":
            return _mean(np.abs(_values(scored) - scored.labels), weights)
    raise Invalid(f"`{metric}` is no metric of a comparison", where="promotion.metric")


def _auroc(scored: Scored, weights: Floats) -> Floats:
    """The weighted chance that a positive row scores above a negative one, ties counting one half
    (Mann and Whitney 1947).
    """
    score = _probabilities(scored)[:, 1]
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    ranked = weights[:, order]
    positive = ranked * (scored.labels[order] == 1)
    negative = np.add.reduceat(ranked - positive, starts, axis=1)
    positive = np.add.reduceat(positive, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _probabilities(scored: Scored) -> Floats:
    if scored.probabilities is None:
        raise Invalid(
            "the audit's scores hold no probabilities",
            where="promotion.metric",
            remedy="Use rmse or mae for a regression",
        )
    return scored.probabilities


def _values(scored: Scored) -> Floats:
    if scored.values is None:
        raise Invalid(
            "the audit's scores hold no values",
            where="promotion.metric",
            remedy="rmse and mae are for a regression",
        )
    return scored.values


def _decisions(scored: Scored) -> Integers:
    return scored.decisions if scored.decisions is not None else _probabilities(scored).argmax(axis=1)


def _mean(column: Floats, weights: Floats) -> Floats:
    return _ratio(weights @ column, weights.sum(axis=1))


def _ratio(above: Floats, below: Floats) -> Floats:
    quotient: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return quotient
