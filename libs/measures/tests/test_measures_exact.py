"""Exact intervals of proportions: equal to scipy's, and as sure as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom

from penstock.contracts.events import Interval
from penstock.measures.exact import clopper_pearson, proportion


@pytest.mark.parametrize("rows", [1, 4, 30, 999, 40_000])
def test_equals_scipy(rows: int) -> None:
    hits = np.unique(np.linspace(0, rows, 12).astype(int))
    lower, upper = clopper_pearson(hits, rows, 0.95)
    assert lower == pytest.approx(np.nan_to_num(beta.ppf(0.025, hits, rows - hits + 1)), abs=1e-9)
    assert upper == pytest.approx(np.nan_to_num(beta.ppf(0.975, hits + 1, rows - hits), nan=1.0), abs=1e-9)


def test_four_of_four_rows_say_little_and_no_row_says_nothing() -> None:
    found = proportion(4, 4, 0.95)
    assert found is not None
    assert (found.estimate, found.upper, round(found.lower, 3)) == (1.0, 1.0, 0.398)
    assert proportion(0, 0, 0.95) is None


def test_whole_entities_never_narrow_it() -> None:
    drawn = Interval(estimate=0.5, lower=0.1, upper=0.7)
    found = proportion(50, 100, 0.95, drawn)
    assert found is not None
    assert (found.lower, found.upper) == (0.1, 0.7)


@pytest.mark.parametrize("rows", [4, 30, 100, 1000])
def test_covers_at_least_as_often_as_it_says(rows: int) -> None:
    """Summed exactly over all outcomes. From 100 rows on it is not much too wide either."""
    rates = np.linspace(0.005, 0.995, 100)
    lower, upper = clopper_pearson(np.arange(rows + 1), rows, 0.95)
    inside = (lower[None] <= rates[:, None]) & (rates[:, None] <= upper[None])
    covered = (binom.pmf(np.arange(rows + 1)[None], rows, rates[:, None]) * inside).sum(axis=1)
    assert covered.min() >= 0.95
    if rows >= 100:
        assert 0.94 <= covered.mean() <= 0.97
