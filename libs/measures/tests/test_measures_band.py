"""Ends of groups' rates, and what they prove."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from penstock.measures.band import highest_ratios, proven, steps, wilson
from penstock.measures.fairness import RATES, Rates
from penstock.measures.intervals import Bootstrap
from penstock.measures.scores import Floats

Z95 = 1.959963984540054


def of_two(first: float, second: float) -> Rates:
    values = np.array([[[first], [second]]])
    return alike(values)


def alike(values: Floats) -> Rates:
    return Rates(**dict.fromkeys(RATES, values))


@pytest.mark.parametrize(("hits", "rows"), [(0, 4), (3, 10), (9, 100), (40, 40)])
def test_the_score_interval_is_as_in_scipy(hits: int, rows: int) -> None:
    ends = wilson(np.array([hits / rows]), np.array([float(rows)]), Z95)
    theirs = binomtest(hits, rows).proportion_ci(method="wilson")
    assert [float(end[0]) for end in ends] == pytest.approx([theirs.low, theirs.high], abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "rows", "ends"),
    [((56, 48), (70, 80), (0.0524, 0.3339)), ((9, 3), (10, 10), (0.1705, 0.8090))],
)
def test_a_difference_goes_as_far_as_newcombe_published(
    hits: tuple[int, int], rows: tuple[int, int], ends: tuple[float, float]
) -> None:
    rates = of_two(hits[0] / rows[0], hits[1] / rows[1])
    down, up = steps("equal_opportunity_difference", rates, of_two(*map(float, rows)), Z95)
    difference = hits[0] / rows[0] - hits[1] / rows[1]
    assert (difference - down[0], difference + up[0]) == pytest.approx(ends, abs=5e-5)


def test_a_difference_is_the_same_whichever_group_is_first() -> None:
    drawn = np.random.default_rng(1).normal([0.8, 0.5], 0.02, (500, 2))[..., None]
    found = []
    for order in ([0, 1], [1, 0]):
        rates, draws, rows = (
            of[:, order] for of in (of_two(0.8, 0.5).selection, drawn, np.full((1, 2, 1), 600.0))
        )
        found.append(
            proven(
                "demographic_parity_difference",
                alike(rates),
                alike(draws),
                alike(rows),
                0.95,
            )
        )
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert 0.22 < found[0] < 0.28


def test_rows_of_one_entity_are_less_than_so_many_rows() -> None:
    rate, rows = np.full((1, 1, 1), 0.4), np.full((1, 1, 1), 200.0)
    drawn = np.random.default_rng(1).binomial(50, 0.4, (4000, 1, 1)) / 50
    apart, together = (Bootstrap(np.repeat(np.arange(200 // n), n), 100, 0.95, 1) for n in (1, 4))
    assert apart.independent(rate, drawn, rows) == 200
    assert float(together.independent(rate, drawn, rows)[0, 0, 0]) == pytest.approx(50, rel=0.1)
    assert together.independent(rate, np.full((10, 1, 1), 0.4), rows) == 200


def test_a_group_without_a_hit_is_worth_no_more_of_its_rows_than_the_others() -> None:
    rate, rows = np.array([[[0.4], [0.0]]]), np.full((1, 2, 1), 200.0)
    drawn = np.random.default_rng(1).binomial(50, rate, (4000, 2, 1)) / 50
    worth = Bootstrap(np.repeat(np.arange(50), 4), 100, 0.95, 1).independent(rate, drawn, rows)
    assert worth[0, :, 0] == pytest.approx([50, 50], rel=0.1)


def test_a_ratio_is_below_parity_where_its_difference_is_below_zero() -> None:
    """MOVER-R inverts the difference p - r q, so that at r = 1 both say the same of the same rates."""
    generator = np.random.default_rng(2)
    for first, second in generator.integers(0, 61, (200, 2)):
        rates, rows = of_two(first / 60, second / 60), of_two(60.0, 60.0)
        down, up = steps("demographic_parity_difference", rates, rows, Z95)
        difference = rates.selection[0, 0, 0] - rates.selection[0, 1, 0]
        ends = highest_ratios(rates.selection, rows.selection, Z95)
        assert (ends[0] < 1 - 1e-9, ends[1] < 1 - 1e-9) == (
            difference + up[0] < -1e-9,
            difference - down[0] > 1e-9,
        )


def test_a_ratio_that_nothing_is_divided_by_may_be_anything() -> None:
    rates, rows = of_two(0.0, 0.2), of_two(50.0, 50.0)
    ends = highest_ratios(rates.selection, rows.selection, Z95)
    assert 0 < ends[0] < 1
    assert np.isinf(ends[1])
