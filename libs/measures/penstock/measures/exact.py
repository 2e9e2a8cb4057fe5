"""Exact intervals of proportions, for any number of rows: C. Clopper and E. Pearson, *The use of
confidence or fiducial limits illustrated in the case of the binomial* (Biometrika 26, 1934).

A resampled interval of four hits in four rows is 1 to 1; the exact one is 0.398 to 1. It holds the
true rate in at least as many audits as it says, whatever the rate is.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from penstock.contracts.events import Interval
from penstock.measures.scores import Floats

_STEPS = 60  # some ten are needed; halving alone would reach 1e-12 in 40
_NEAR = 1e-12
_TERMS = 3_000  # of the continued fraction; about the root of the rows is needed
_LEAST = 1e-300
_CLOSE = 1e-14


def clopper_pearson(hits: ArrayLike, rows: ArrayLike, confidence: float) -> tuple[Floats, Floats]:
    """Lower and upper ends, as many as there are `hits` of `rows`; NaN where there is no row."""
    k, n = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(rows, np.float64))
    tail = (1 - confidence) / 2
    lower = np.where(n > 0, 0.0, np.nan)
    upper = np.where(n > 0, 1.0, np.nan)
    some, spared = (k > 0) & (n > 0), (k < n) & (n > 0)
    lower[some] = _beta_quantile(tail, k[some], (n - k)[some] + 1)
    upper[spared] = _beta_quantile(1 - tail, k[spared] + 1, (n - k)[spared])
    return lower, upper


def proportion(hits: float, rows: float, confidence: float, drawn: Interval | None = None) -> Interval | None:
    """The exact interval of a rate; None without a row. With `drawn`, the interval by resampling whole
    entities, no narrower than that: rows of one entity are less than so many rows.
    """
    if rows <= 0:
        return None
    lower, upper = (float(end) for end in clopper_pearson(hits, rows, confidence))
    if drawn is not None:
        lower, upper = min(lower, drawn.lower), max(upper, drawn.upper)
    rate = hits / rows
    return Interval(estimate=rate, lower=min(lower, rate), upper=max(upper, rate))


def _beta_quantile(share: float, a: Floats, b: Floats) -> Floats:
    """Computes by Newton's steps from the normal distribution's quantile, halved where one leaves the bounds:
    the distribution rises.
    """
    low, high, mean = np.zeros_like(a), np.ones_like(a), a / (a + b)
    x = mean + NormalDist().inv_cdf(share) * np.sqrt(mean * (1 - mean) / (a + b + 1))
    x = np.where((low < x) & (x < high), x, mean)
    for _ in range(_STEPS if len(a) else 0):
        over = beta_distribution(x, a, b) - share
        low, high = np.where(over < 0, x, low), np.where(over < 0, high, x)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = x - over / _density(x, a, b)
        found: Floats = np.where((low < step) & (step < high), step, (low + high) / 2)
        near, x = np.abs(found - x).max() < _NEAR, found
        if near:
            break
    return x


def _density(x: Floats, a: Floats, b: Floats) -> Floats:
    return np.exp(_log_scale(a, b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-x))


def beta_distribution(x: Floats, a: Floats, b: Floats) -> Floats:
    """The regularised incomplete beta function, by Lentz's continued fraction (W. Press et al.,
    *Numerical Recipes*, section 6.4).
    """
    turned = x > (a + 1) / (a + b + 2)  # where the fraction of the other tail converges sooner
    a, b, x = np.where(turned, b, a), np.where(turned, a, b), np.where(turned, 1 - x, x)
    with np.errstate(divide="ignore"):
        front = np.exp(_log_scale(a, b) + a * np.log(x) + b * np.log1p(-x)) / a
    tail: Floats = front * _fractions(x, a, b)
    return np.where(turned, 1 - tail, tail)


def _log_scale(a: Floats, b: Floats) -> Floats:
    return np.array([math.lgamma(p + q) - math.lgamma(p) - math.lgamma(q) for p, q in zip(a, b, strict=True)])


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _nonzero(1 + term * d), _nonzero(1 + term / c)
            step = c * d
            value *= step
        if abs(step - 1) < _CLOSE:
            break
    return value


# One by one: an audit asks of single rates, for which a step on arrays takes ten times as long.
_fractions = np.vectorize(_fraction, otypes=[np.float64])


def _nonzero(value: float) -> float:
    return value if abs(value) >= _LEAST else _LEAST
