"""Simultaneous band over the contrasts of groups: the least that they prove together.

Its critical value is the quantile of the largest studentised deviation in the draws (max-t; J.
Romano and M. Wolf, *Exact and approximate stepdown methods for multiple hypothesis testing*, JASA
100, 2005), so that it knows how the contrasts go together. Its width is not the draws' spread: of
100 rows 9 are hits, and where chance made them 3, the spread is underestimated with the rate, which
calls equal groups different. Each rate goes to the ends of Wilson's score interval at the critical
value instead, and a contrast as far as the root of the squares of those steps (R. Newcombe,
*Interval estimation for the difference between independent proportions*, method 10, Statistics in
Medicine 17, 1998; for any function of rates G. Zou and A. Donner, *Construction of confidence
limits about effect measures: a general approach*, Statistics in Medicine 27, 2008). A score
statistic with a simultaneous critical value is what A. Agresti, M. Bini, B. Bertaccini and E. Ryu,
*Simultaneous confidence intervals for comparing binomial parameters* (Biometrics 64, 2008),
recommend.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np

from penstock.contracts.measures import MEASURES
from penstock.measures.fairness import CONTRASTS, Rates, reads
from penstock.measures.scores import Floats


def proven(name: str, estimated: Rates, drawn: Rates, rows: Rates, confidence: float) -> float:
    """The measure closest to parity that the band leaves possible.

    `estimated`, `rows` [1, groups, classes]: the rates, and how many independent rows each is a share
    of. `drawn` [R, groups, classes].
    """
    measure, compare = MEASURES[name], CONTRASTS[name]
    contrasts, draws = compare(estimated)[0], compare(drawn)
    usable = np.isfinite(draws).all(axis=0) & np.isfinite(contrasts)
    critical = _critical(name, contrasts[usable], draws[:, usable], confidence)
    down, up = (ends[usable] for ends in steps(name, estimated, rows, critical))
    contrasts = contrasts[usable]
    if measure.higher_is_better:
        return float((contrasts + up).min(initial=measure.best))
    return float(np.maximum(contrasts - down, -contrasts - up).max(initial=measure.best))


def _critical(name: str, contrasts: Floats, drawn: Floats, confidence: float) -> float:
    """No less than that of a single contrast: in few draws, or where none varies, it could be."""
    if MEASURES[name].higher_is_better:  # of a ratio the logarithm, whose draws are not skewed
        defined = (contrasts > 0) & (drawn > 0).all(axis=0)
        contrasts, drawn = np.log(contrasts[defined]), np.log(drawn[:, defined])
    spread = drawn.std(axis=0)
    moving = spread > 0
    furthest = (np.abs(drawn - contrasts)[:, moving] / spread[moving]).max(axis=1, initial=0.0)
    return max(float(np.quantile(furthest, confidence)), NormalDist().inv_cdf((1 + confidence) / 2))


def steps(name: str, estimated: Rates, rows: Rates, critical: float) -> tuple[Floats, Floats]:
    """Distances that each contrast may go down and up [C]: one group's rates at a time go to their ends."""
    compare = CONTRASTS[name]
    here = compare(estimated)[0]
    down, up = np.zeros_like(here), np.zeros_like(here)
    for of in sorted(reads(name)):
        rate = getattr(estimated, of)
        ends = wilson(rate, getattr(rows, of), critical)
        for group in range(rate.shape[1]):
            only = (np.arange(rate.shape[1]) == group)[:, None]
            moved = (replace(estimated, **{of: np.where(only, end, rate)}) for end in ends)
            with np.errstate(invalid="ignore"):  # a ratio to a rate of 0
                moves = np.stack([compare(rates)[0] - here for rates in moved])
            down += moves.min(axis=0, initial=0.0) ** 2
            up += moves.max(axis=0, initial=0.0) ** 2
    return np.sqrt(down), np.sqrt(up)


def wilson(rate: Floats, rows: Floats, critical: float) -> tuple[Floats, Floats]:
    """Ends of the score interval (E. Wilson, *Probable inference, the law of succession, and
    statistical inference*, JASA 22, 1927); NaN where there is no row.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        more = critical**2 / rows
        middle = (rate + more / 2) / (1 + more)
        half = np.sqrt(more * (rate * (1 - rate) + more / 4)) / (1 + more)
    return np.clip(middle - half, 0.0, rate), np.clip(middle + half, rate, 1.0)
