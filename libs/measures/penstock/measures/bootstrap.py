"""Intervals of many measures of the same rows, from one seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.contracts.events import Interval
from penstock.measures.intervals import percentile
from penstock.measures.resampling import collect, draws
from penstock.measures.scores import Codes, Floats
from penstock.measures.weighted import Meters, estimate


class Bootstrap:
    """Draws of some rows. Each measurement has a seed of its own, so that one more changes no other."""

    def __init__(self, units: Codes, resamples: int, confidence: float, seed: int) -> None:
        self._units = units
        self._resamples = resamples
        self._seed = np.random.SeedSequence(seed)
        self.confidence = confidence

    def draw(self, strata: Codes | None, measure: Callable[[Floats], dict[str, Floats]]) -> dict[str, Floats]:
        """`measure` under each of the draws, by name [resamples, …]; `strata` as in `draws`."""
        return collect(draws(self._units, strata, self._resamples, self._seed.spawn(1)[0]), measure)

    def measured(self, strata: Codes | None, meters: Meters) -> dict[str, Interval | None]:
        """Estimates of measures over rows with their intervals, by name; None where undefined."""
        drawn = self.draw(strata, meters)
        return {
            name: percentile(drawn[name], value, self.confidence)
            for name, value in estimate(meters, len(self._units)).items()
        }
