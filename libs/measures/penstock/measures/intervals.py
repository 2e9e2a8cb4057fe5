"""Confidence intervals from bootstrap draws.

**A measure over rows** (AUROC, accuracy, a rate, …) gets the percentile interval.

**A measure between groups** is an extreme over contrasts: the largest absolute difference, or the
smallest ratio. Its estimate is biased away from parity, each draw is biased once more, and near
parity the bootstrap of such an extreme is inconsistent (Andrews 2000, "Inconsistency of the
bootstrap when a parameter is on the boundary of the parameter space", Econometrica 68:399-405). So
each end gets what it needs:

- The end *away from parity* is what a gate is judged by, and one that is too low passes an unfair
  model. Percentile: its bias is to the safe side. Simulated (`tests/test_measures_coverage.py`), it
  lies on the wrong side of the truth in 0 to 2.4 % of audits where 2.5 % are due; the basic
  interval, which "corrects" the bias, is wrong in up to 16 %, the bias-corrected one (BC, BCa) in
  up to 8 %.
- The end *towards parity* decides between fail and inconclusive. A percentile there calls a
  perfectly fair model unequal for sure: wrong in all audits at a true difference of 0, in half of
  them with five groups at 0.1. Instead the contrasts themselves, which are smooth and bootstrap
  well, get a simultaneous band by the studentised maximum (max-t; Romano and Wolf 2005, "Exact and
  approximate stepdown methods for multiple hypothesis testing", JASA 100:94-108), and the end is
  the largest difference that the band still proves: wrong in 0.5 to 1.6 % of audits, in 6 to 10 %
  where all groups are truly equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.contracts.events import Interval
from penstock.contracts.measures import MEASURES
from penstock.measures.exact import proportion
from penstock.measures.fairness import CONTRASTS, Rates, extreme
from penstock.measures.parity import fair_bounds
from penstock.measures.resampling import collect, draws
from penstock.measures.scores import Codes, Floats
from penstock.measures.weighted import Meters, estimate

# Share of undefined draws above which an interval would describe other data than these.
_UNDEFINED_AT_MOST = 0.05
FEW = 10  # hits, or misses, below which resampling says too little of a rate


class Bootstrap:
    """Draws of some rows. Each measurement has a seed of its own, so that one more changes no other."""

    def __init__(self, units: Codes, resamples: int, confidence: float, seed: int) -> None:
        self._units = units
        self._resamples = resamples
        self._seed = np.random.SeedSequence(seed)
        self._beside = seed
        self.resamples = resamples
        self.confidence = confidence
        self.clustered = int(units.max(initial=-1)) + 1 < len(units)

    def few(self, drawn: Floats, hits: Floats, rows: Floats) -> Floats:
        """Draws of rates [R, groups, classes], where fewer than FEW rows were hits, or were not, drawn
        anew: as often as not such a cell resamples to no spread at all, as if it were known.

        They come from the Beta distribution of Jeffreys' interval (L. Brown, T. Cai, A. DasGupta,
        *Interval Estimation for a Binomial Proportion*, 2001). Clustered rows stay as they are.
        """
        scarce = (rows > 0) & (np.minimum(hits, rows - hits) < FEW)
        if self.clustered or not scarce.any():
            return drawn
        k, n = hits[scarce], rows[scarce]
        generator = np.random.default_rng((self._beside, len(k)))
        found = drawn.copy()
        found[:, scarce] = generator.beta(k + 0.5, n - k + 0.5, (len(drawn), len(k)))
        return found

    def draw(self, strata: Codes | None, measure: Meters) -> dict[str, Floats]:
        """`measure` under each of the draws, by name [resamples, …]; `strata` as in `draws`."""
        return collect(draws(self._units, strata, self._resamples, self._seed.spawn(1)[0]), measure)

    def fair(self, name: str, rows: Rates, common: Rates) -> Floats | None:
        """Bounds of audits of a fair model, see `fair_bounds`."""
        return fair_bounds(name, rows, common, self.confidence, self._beside)

    def share(self, hits: float, rows: float, drawn: Interval | None) -> Interval | None:
        """The exact interval of a share of rows; where entities have several, no narrower than `drawn`."""
        return proportion(hits, rows, self.confidence, drawn if self.clustered else None)

    def measured(self, strata: Codes | None, meters: Meters) -> dict[str, Interval | None]:
        """Estimates of measures over rows with their intervals, by name; None where undefined."""
        drawn = self.draw(strata, meters)
        return {
            name: percentile(drawn[name], value, self.confidence)
            for name, value in estimate(meters, len(self._units)).items()
        }


def percentile(drawn: Floats, value: float, confidence: float) -> Interval | None:
    """Interval of a measure over rows from its value and its draws [R]; None where the value or too
    many draws are undefined.
    """
    ends = _quantiles(drawn, confidence)
    return _interval(value, *ends) if ends and np.isfinite(value) else None


def disparity(name: str, estimated: Rates, drawn: Rates, confidence: float) -> Interval | None:
    """Interval of a measure between groups from the groups' rates, on the rows (R = 1) and in each
    draw; None where a group has no row that one of the compared rates is of.
    """
    compare = CONTRASTS[name]
    return of_contrasts(name, compare(estimated)[0], compare(drawn), confidence)


def of_contrasts(name: str, contrasts: Floats, drawn: Floats, confidence: float) -> Interval | None:
    """Interval of a measure between groups from its contrasts [C] and their draws [R, C]."""
    measure = MEASURES[name]
    estimate = float(extreme(name, contrasts[None])[0])
    if np.isnan(contrasts).any():
        return None
    if not contrasts.size:
        return _interval(estimate, estimate, estimate)
    ends = _quantiles(extreme(name, drawn), confidence)
    if ends is None or not np.isfinite(estimate) or not np.isfinite(contrasts).any():
        return None
    reach, usable = _band(contrasts, drawn, confidence)
    if measure.higher_is_better:
        towards = float((contrasts[usable] + reach).min(initial=measure.best))
        return _interval(estimate, ends[0], max(ends[1], towards))
    towards = float((np.abs(contrasts[usable]) - reach).max(initial=measure.best))
    return _interval(estimate, min(ends[0], towards), ends[1])


def _band(contrasts: Floats, drawn: Floats, confidence: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Half the width of each usable contrast's simultaneous band, and which of the C are usable."""
    usable = np.isfinite(drawn).all(axis=0) & np.isfinite(contrasts)
    contrasts, drawn = contrasts[usable], drawn[:, usable]
    spread = drawn.std(axis=0)
    moving = spread > 0
    furthest = (np.abs(drawn - contrasts)[:, moving] / spread[moving]).max(axis=1, initial=0.0)
    return np.quantile(furthest, confidence) * spread, usable


def _quantiles(drawn: Floats, confidence: float) -> tuple[float, float] | None:
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < (1 - _UNDEFINED_AT_MOST) * len(drawn) or not len(defined):
        return None
    lower, upper = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def _interval(estimate: float, lower: float, upper: float) -> Interval:
    """Holds its estimate: all draws of a biased extreme may lie on one side of it."""
    return Interval(estimate=estimate, lower=min(lower, estimate), upper=max(upper, estimate))
