"""Two models by one measure: how much worse the second could be than the first."""

from __future__ import annotations

import numpy as np

from penstock.contracts.events import Interval
from penstock.contracts.measures import MEASURES
from penstock.measures.intervals import percentile
from penstock.measures.performance import FORMULAS
from penstock.measures.resampling import draws
from penstock.measures.scores import Scores


def estimated_loss(name: str, first: Scores, second: Scores) -> float:
    """Estimates how much worse `second` is than `first` on these rows; NaN where that is undefined."""
    one, other = FORMULAS[name](first), FORMULAS[name](second)
    assert one is not None
    assert other is not None
    sign = 1.0 if MEASURES[name].higher_is_better else -1.0
    return sign * float((one(np.ones((1, len(first)))) - other(np.ones((1, len(second)))))[0])


def worse_by(
    name: str, first: Scores, second: Scores, *, paired: bool, resamples: int, confidence: float, seed: int
) -> Interval | None:
    """Interval of how much worse `second` is than `first`, in the measure's own units; negative: it is
    better.

    `paired`: both are scores of the same rows in the same order, and each resample draws the same
    rows for both, so that what is hard for both cancels out (paired bootstrap; Efron and Tibshirani
    1993, ch. 16). Else each is drawn by itself. None where the measure is undefined on these rows.
    """
    one, other = FORMULAS[name](first), FORMULAS[name](second)
    assert one is not None
    assert other is not None
    generator = np.random.default_rng(seed)
    if paired:
        drawn = np.concatenate([one(w) - other(w) for w in draws(first.units, resamples, generator)])
    else:
        drawn = np.concatenate([one(w) for w in draws(first.units, resamples, generator)])
        drawn -= np.concatenate([other(w) for w in draws(second.units, resamples, generator)])
    sign = 1.0 if MEASURES[name].higher_is_better else -1.0
    return percentile(sign * drawn, estimated_loss(name, first, second), confidence)
