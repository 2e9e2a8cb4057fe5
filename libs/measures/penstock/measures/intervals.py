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
  them with five groups at 0.1. Instead it is the largest difference that a simultaneous band over
  all contrasts still proves (`band.py`): wrong in 0.5 to 2.2 % of audits, in 2 to 6 % where all
  groups are truly equal.
"""

from __future__ import annotations

import numpy as np

from penstock.contracts.events import Interval
from penstock.contracts.measures import MEASURES
from penstock.measures.band import proven
from penstock.measures.exact import proportion
from penstock.measures.fairness import CONTRASTS, Rates, Tally, extreme
from penstock.measures.parity import fair_rates
from penstock.measures.resampling import collect, draws, redraws
from penstock.measures.scores import Codes, Floats
from penstock.measures.weighted import Meters, estimate

# Share of undefined draws above which an interval would describe other data than these.
_UNDEFINED_AT_MOST = 0.05
FEW = 10  # hits, or misses, below which resampling says too little of a rate


class Bootstrap:
    """Draws of some rows. Each measurement has a seed of its own, so that one more changes no other."""

    def __init__(self, units: Codes, resamples: int, confidence: float, seed: int) -> None:
        self._units = units
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

    def independent(self, rate: Floats, drawn: Floats, rows: Floats) -> Floats:
        """Number of independent rows that rates [1, groups, classes] are worth: where entities have
        several, those of the same spread. A group counts for no more of its rows than all groups
        together do, since few entities say little of their own spread (J. Rao and A. Scott, *A simple
        method for the analysis of clustered binary data*, Biometrics 48, 1992).
        """
        if not self.clustered:
            return rows
        alone, spread = rate * (1 - rate) / np.maximum(rows, 1), drawn.var(axis=0, keepdims=True)
        weight = np.where(np.isfinite(alone) & np.isfinite(spread), rows, 0.0) ** 2
        expected, found = ((weight * np.nan_to_num(of)).sum(axis=1, keepdims=True) for of in (alone, spread))
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.fmin(expected / found, np.where(spread > 0, alone / spread, 1.0))
        independent: Floats = rows * np.fmin(worth, 1.0)
        return independent

    def within(self, rows: Codes) -> Bootstrap:
        """Draws of some of the rows alone, whose number stays as it is."""
        units = np.unique(self._units[rows], return_inverse=True)[1].astype(np.int64)
        seed = int(self._seed.spawn(1)[0].generate_state(1, np.uint64)[0])
        return Bootstrap(units, self.resamples, self.confidence, seed)

    def draw(self, measure: Meters) -> dict[str, Floats]:
        """`measure` under each of the draws, by name [resamples, …]."""
        return collect(draws(self._units, self.resamples, self._seed.spawn(1)[0]), measure)

    def rates(self, tally: Tally, kept: int) -> Rates:
        """Rates of each group under each of the draws [resamples, groups, classes of interest]. The rows
        of each group (`kept` 1), or of each label in it (2), stay as many; but not where entities have
        several rows, which may lie in several groups.
        """
        if self.clustered:
            return Rates(**self.draw(lambda weights: vars(tally.rates(tally.weighted(weights)))))
        pieces = redraws(tally.counts, kept, self.resamples, self._seed.spawn(1)[0])
        return Rates(**collect(pieces, lambda counts: vars(tally.rates(counts))))

    def fair(self, rows: Rates, common: Rates) -> Rates | None:
        """Rates in resamples of audits of a fair model, see `fair_rates`."""
        return fair_rates(rows, common, self._beside)

    def share(self, hits: float, rows: float, drawn: Interval | None) -> Interval | None:
        """The exact interval of a share of rows; where entities have several, no narrower than `drawn`."""
        return proportion(hits, rows, self.confidence, drawn if self.clustered else None)

    def measured(self, meters: Meters) -> dict[str, Interval | None]:
        """Estimates of measures over rows with their intervals, by name; None where undefined."""
        drawn = self.draw(meters)
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


def disparity(name: str, estimated: Rates, drawn: Rates, rows: Rates, confidence: float) -> Interval | None:
    """Interval of a measure between groups from the groups' rates, on the rows (R = 1) and in each
    draw, and from how many independent rows each is a share of (R = 1); None where a group has no
    row that one of the compared rates is of.
    """
    measure, compare = MEASURES[name], CONTRASTS[name]
    contrasts = compare(estimated)
    estimate = float(extreme(name, contrasts)[0])
    if np.isnan(contrasts).any():
        return None
    if not contrasts.size:
        return _interval(estimate, estimate, estimate)
    ends = _quantiles(extreme(name, compare(drawn)), confidence)
    if ends is None or not np.isfinite(estimate) or not np.isfinite(contrasts).any():
        return None
    towards = proven(name, estimated, drawn, rows, confidence)
    if measure.higher_is_better:
        return _interval(estimate, ends[0], max(ends[1], towards))
    return _interval(estimate, min(ends[0], towards), ends[1])


def _quantiles(drawn: Floats, confidence: float) -> tuple[float, float] | None:
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < (1 - _UNDEFINED_AT_MOST) * len(drawn) or not len(defined):
        return None
    lower, upper = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lower), float(upper)


def _interval(estimate: float, lower: float, upper: float) -> Interval:
    """Holds its estimate: all draws of a biased extreme may lie on one side of it."""
    return Interval(estimate=estimate, lower=min(lower, estimate), upper=max(upper, estimate))
