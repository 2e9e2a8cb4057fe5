"""Figures that a perfectly fair model shows by chance."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.measures.fairness import RATES, Rates
from penstock.measures.parity import fair_bounds, fair_rates, rows_needed


def of_two(positives: tuple[int, int], negatives: tuple[int, int], rate: float = 0.7) -> tuple[Rates, Rates]:
    true, false = (np.array([[[one] for one in rows]], float) for rows in (positives, negatives))
    common = np.full((1, 1, 1), rate)
    rows = true + false
    among = {name: rate.rows(rows, true) for name, rate in RATES.items()}
    others = {"false_positive": 1 - common, "nonselection": 1 - common}
    return Rates(**among), Rates(**(dict.fromkeys(RATES, common) | others))


def bound(rows: tuple[Rates, Rates], name: str = "equalized_odds_difference") -> float:
    drawn = fair_rates(*rows, seed=1)
    assert drawn is not None
    found = fair_bounds(name, drawn, 0.95)
    assert found is not None
    assert len(found) == 200
    return float(np.median(found))


def test_three_hundred_audit_rows_of_german_credit_let_nobody_show_a_tenth() -> None:
    """A thousand loans, three tenths of them audited, a third of women, three tenths bad."""
    few = bound(of_two((65, 145), (28, 62)))
    assert 0.18 < few < 0.32
    assert bound(of_two((6500, 14500), (2800, 6200))) == pytest.approx(few / 10, rel=0.25)


def test_a_ratio_has_its_lower_bound_below_parity() -> None:
    assert 0.6 < bound(of_two((65, 145), (28, 62)), "demographic_parity_ratio") < 0.95


def test_an_empty_cell_says_nothing() -> None:
    drawn = fair_rates(*of_two((0, 10), (10, 10)), seed=1)
    assert drawn is not None
    assert fair_bounds("equal_opportunity_difference", drawn, 0.95) is None
    assert fair_bounds("demographic_parity_difference", drawn, 0.95) is not None


def test_too_many_groups_are_not_drawn() -> None:
    rows, rate = np.full((1, 24, 1), 10.0), np.full((1, 1, 1), 0.5)
    assert fair_rates(*(Rates(**dict.fromkeys(RATES, of)) for of in (rows, rate)), seed=1) is None


def test_rows_grow_with_the_square() -> None:
    assert rows_needed(300, 0.25, 0.1) == 1900
    assert rows_needed(300, 0.1, 0.1) == 300
