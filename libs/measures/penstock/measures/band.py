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
recommend. The upper end of a ratio p / q is the largest r for which p - r q may be 0, by the same
squares (MOVER-R; R. Newcombe, *MOVER-R confidence intervals for ratios and products of two
independently estimated quantities*, Statistical Methods in Medical Research 25, 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.measures import MEASURES
from penstock.measures.fairness import CONTRASTS, Rates, both_ways, differences, ratios, reads
from penstock.measures.scores import Floats


def proven(name: str, estimated: Rates, drawn: Rates, rows: Rates, confidence: float) -> float:
    """The measure closest to parity that the band leaves possible.

    `estimated`, `rows` [1, groups, classes]: the rates, and how many independent rows each is a share
    of. `drawn` [R, groups, classes].
    """
    measure, compare = MEASURES[name], CONTRASTS[name]
    if measure.higher_is_better:
        read = sorted(reads(name))
        apart = [_joined(differences, read, of) for of in (estimated, drawn)]
        relative = [_logarithms(_joined(ratios, read, of)) for of in (estimated, drawn)]
        critical = max(_critical(of[0], draws, confidence) for of, draws in (apart, relative))
        ends = [highest_ratios(getattr(estimated, of), getattr(rows, of), critical) for of in read]
        return float(np.concatenate(ends).min(initial=measure.best))
    contrasts, draws = compare(estimated)[0], compare(drawn)
    critical = _critical(contrasts, draws, confidence)
    down, up = steps(name, estimated, rows, critical)
    least = np.maximum(contrasts - down, -contrasts - up)
    return float(least[_usable(contrasts, draws)].max(initial=measure.best))


def _joined(compare: Callable[[Floats], Floats], names: Sequence[str], rates: Rates) -> Floats:
    """Contrasts [R, C] of several rates, in the order of their names."""
    return np.concatenate([compare(getattr(rates, name)) for name in names], axis=1)


def _critical(contrasts: Floats, drawn: Floats, confidence: float) -> float:
    """No less than that of a single contrast: in few draws, or where none varies, it could be."""
    usable = _usable(contrasts, drawn)
    contrasts, drawn = contrasts[usable], drawn[:, usable]
    spread = drawn.std(axis=0)
    moving = spread > 0
    furthest = (np.abs(drawn - contrasts)[:, moving] / spread[moving]).max(axis=1, initial=0.0)
    return max(float(np.quantile(furthest, confidence)), NormalDist().inv_cdf((1 + confidence) / 2))


def _usable(contrasts: Floats, drawn: Floats) -> NDArray[np.bool_]:
    """[C]: defined on the rows and in each draw."""
    return np.isfinite(drawn).all(axis=0) & np.isfinite(contrasts)


def _logarithms(of: Floats) -> Floats:
    """Logarithms of ratios, whose draws are not skewed; not finite where nothing is divided or by nothing."""
    with np.errstate(divide="ignore"):
        return np.log(of)


def highest_ratios(rate: Floats, rows: Floats, critical: float) -> Floats:
    """Upper ends [C] of the ratios of rates [1, groups, classes], in the order of `ratios`; infinite
    where what is divided by may be 0.
    """
    low, high = wilson(rate, rows, critical)
    above, below = both_ways(rate)
    highest, lowest = both_ways(high)[0], both_ways(low)[1]
    squared = lowest * (2 * below - lowest)  # of the part of q that is sure
    root = np.sqrt(np.maximum(0.0, (above * below) ** 2 - squared * highest * (2 * above - highest)))
    ends = np.full(above.shape, np.inf)
    np.divide(above * below + root, squared, out=ends, where=squared > 0)
    return ends.ravel()


def steps(name: str, estimated: Rates, rows: Rates, critical: float) -> tuple[Floats, Floats]:
    """Distances that each difference may go down and up [C]: one group's rates at a time go to their ends."""
    compare = CONTRASTS[name]
    here = compare(estimated)[0]
    down, up = np.zeros_like(here), np.zeros_like(here)
    for of in sorted(reads(name)):
        rate = getattr(estimated, of)
        ends = wilson(rate, getattr(rows, of), critical)
        for group in range(rate.shape[1]):
            only = (np.arange(rate.shape[1]) == group)[:, None]
            moved = (replace(estimated, **{of: np.where(only, end, rate)}) for end in ends)
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
