"""Measures between groups equal fairlearn's, weighted or not, and are undefined where the table says."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.measures import MEASURES, between_groups
from penstock.measures import fairness, intervals
from penstock.measures.performance import performance
from penstock.measures.scores import Codes, Floats, Scores
from penstock.measures.weighted import estimate

BETWEEN_GROUPS = [name for name, measure in MEASURES.items() if measure.between_groups]
NOT_FAIRLEARNS = {  # measures that fairlearn has under no name or another, from what it has
    "nonselection_ratio": lambda truth, decision, **of: fairlearn.demographic_parity_ratio(
        1 - truth, 1 - decision, **of
    ),
}
COMPARED = [name for name in BETWEEN_GROUPS if name in NOT_FAIRLEARNS or hasattr(fairlearn, name)]


@st.composite
def decided(draw: st.DrawFn) -> tuple[Codes, Codes, Codes]:
    """Truth, decision and group, every cell (group x label) with at least one row."""
    groups = draw(st.integers(2, 4))
    cells = [(g, y) for g in range(groups) for y in (0, 1)]
    more = draw(st.lists(st.sampled_from(cells), max_size=40))
    rows = np.array(cells + more)
    decision = np.array(draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))))
    return rows[:, 1], decision, rows[:, 0]


def binary(truth: Codes, decision: Codes, p: Floats | None = None) -> Scores:
    p = np.full(len(truth), 0.5) if p is None else p
    return Scores(
        "binary",
        truth.astype(float),
        np.arange(len(truth)),
        ("no", "yes"),
        np.stack([1 - p, p], axis=1),
        decision,
    )


def value(name: str, of: fairness.Rates) -> float:
    return float(fairness.extreme(name, fairness.CONTRASTS[name](of))[0])


def fairlearns(name: str, truth: Codes, decision: Codes, **of: Any) -> float:
    measure = NOT_FAIRLEARNS.get(name) or getattr(fairlearn, name)
    return float(measure(truth, decision, **of))


@given(decided(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_measures_equal_fairlearns(rows: tuple[Codes, Codes, Codes], random: Any) -> None:
    truth, decision, group = rows
    weights = np.array([random.choice([1.0, 2.0, 0.25]) for _ in truth])
    of = fairness.rates(binary(truth, decision), group)(np.stack([np.ones(len(truth)), weights]))
    for name in COMPARED:
        ours = fairness.extreme(name, fairness.CONTRASTS[name](of))
        for index, sample_weight in enumerate((None, weights)):
            theirs = fairlearns(name, truth, decision, sensitive_features=group, sample_weight=sample_weight)
            read = [getattr(of, rate)[index] for rate in sorted(fairness.reads(name))]
            if MEASURES[name].higher_is_better and not all(rate.any() for rate in read):
                # A rate that is 0 in every group is at parity; fairlearn divides nothing by nothing.
                theirs = min(float(rate.min() / rate.max()) if rate.any() else 1.0 for rate in read)
            assert ours[index] == pytest.approx(theirs, abs=1e-12)


@given(decided(), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_a_weighting_is_the_rows_drawn_that_often(rows: tuple[Codes, Codes, Codes], random: Any) -> None:
    truth, decision, group = rows
    weights = np.array([[random.randint(1, 3) for _ in truth]], dtype=float)
    drawn = np.repeat(np.arange(len(truth)), weights[0].astype(int))
    of = fairness.rates(binary(truth, decision), group)(weights)
    theirs = fairlearn.equalized_odds_difference(
        truth[drawn], decision[drawn], sensitive_features=group[drawn]
    )
    assert value("equalized_odds_difference", of) == pytest.approx(theirs, abs=1e-12)


def test_of_several_classes_each_is_taken_against_the_rest_and_the_worst_counts() -> None:
    generator = np.random.default_rng(3)
    truth, group = generator.integers(0, 3, 200), generator.integers(0, 2, 200)
    p = generator.dirichlet(np.ones(3), 200)
    decision = p.argmax(axis=1)
    scores = Scores("multiclass", truth.astype(float), np.arange(200), ("a", "b", "c"), p, decision)
    of = fairness.rates(scores, group)(np.ones((1, 200)))
    for name in (measure.name for measure in between_groups("multiclass") if measure.name in COMPARED):
        theirs = [
            fairlearns(name, 1 * (truth == c), 1 * (decision == c), sensitive_features=group)
            for c in range(3)
        ]
        worst = min(theirs) if MEASURES[name].higher_is_better else max(theirs)
        assert value(name, of) == pytest.approx(worst, abs=1e-12)


def six_rows(of: fairness.Rates) -> fairness.Rates:
    return fairness.Rates(**{name: np.full_like(rate, 6.0) for name, rate in vars(of).items()})


def test_an_empty_cell_makes_a_measure_undefined() -> None:
    """fairlearn takes the rate of no row as 0, which would be called unfair."""
    truth, group = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])
    of = fairness.rates(binary(truth, truth), group)(np.ones((1, 4)))
    assert np.isnan(of.false_positive[0, 1, 0])
    for name in BETWEEN_GROUPS:
        asks = "false_positive" in fairness.reads(name)  # of a group without a negative row
        assert (intervals.disparity(name, of, of, six_rows(of), 0.95) is None) == asks, name


def test_of_nobody_selected_the_ratio_is_undefined_and_the_difference_is_parity() -> None:
    truth, group = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    of = fairness.rates(binary(truth, np.zeros(4, dtype=int)), group)(np.ones((1, 4)))
    assert intervals.disparity("demographic_parity_ratio", of, of, six_rows(of), 0.95) is None
    difference = intervals.disparity("demographic_parity_difference", of, of, six_rows(of), 0.95)
    assert difference is not None
    assert (difference.lower, difference.estimate, difference.upper) == (0, 0, 0)


def test_a_class_that_nobody_gets_is_passed_over_wherever_it_stands() -> None:
    truth, group = np.array([0, 1, 2] * 4), np.repeat([0, 1], 6)
    p = np.eye(3)[truth]
    for absent in range(3):
        decision = np.where(truth == absent, (absent + 1) % 3, truth)
        scores = Scores("multiclass", truth.astype(float), np.arange(12), ("a", "b", "c"), p, decision)
        of = fairness.rates(scores, group)(np.ones((1, 12)))
        found = intervals.disparity("demographic_parity_ratio", of, of, six_rows(of), 0.95)
        assert found is not None
        assert found.estimate == 1.0


def test_a_ratio_of_the_other_decision_has_its_own_interval() -> None:
    """Denied are 20 % and 10 % of 300 rows each: half as many, and 0.89 of those who are not."""
    denied = np.repeat([1, 0, 1, 0], [60, 240, 30, 270])
    scores, group = binary(denied, denied), np.repeat([0, 1], 300)
    bootstrap = intervals.Bootstrap(np.arange(600), 500, 0.95, 1)
    of = fairness.rates(scores, group)(np.ones((1, 600)))
    drawn, rows = (
        bootstrap.rates(fairness.tally(scores, group), 1),
        fairness.Rates(**dict.fromkeys(fairness.RATES, np.full((1, 2, 1), 300.0))),
    )
    found = intervals.disparity("nonselection_ratio", of, drawn, rows, 0.95)
    assert found is not None
    assert found.estimate == pytest.approx(0.8 / 0.9)
    assert 0.8 < found.lower < 0.86
    assert 0.92 < found.upper < 1


def test_the_table_and_the_functions_name_the_same() -> None:
    assert set(fairness.CONTRASTS) == set(BETWEEN_GROUPS)
    assert list(fairness.RATES) == [field.name for field in fields(fairness.Rates)]


def test_rows_of_no_group_take_no_part_and_a_single_group_is_at_parity() -> None:
    truth, decision = np.array([0, 1, 0, 1, 1]), np.array([0, 1, 1, 0, 1])
    of = fairness.rates(binary(truth, decision), np.array([0, 0, -1, -1, 0]))(np.ones((1, 5)))
    assert of.selection.shape == (1, 1, 1)
    assert of.selection[0, 0, 0] == pytest.approx(2 / 3)
    for name in BETWEEN_GROUPS:
        assert value(name, of) == MEASURES[name].best


def test_an_abstained_row_is_not_selected_and_not_counted_right_or_wrong() -> None:
    truth = np.array([1, 1, 0, 0])
    scores = binary(truth, np.array([1, -1, 0, -1]))
    found = estimate(performance(scores), 4)
    assert (found["accuracy"], found["abstained"]) == (1.0, 0.5)
    of = fairness.rates(scores, np.zeros(4, dtype=int))(np.ones((1, 4)))
    assert (of.selection[0, 0, 0], of.true_positive[0, 0, 0], of.false_positive[0, 0, 0]) == (0.25, 0.5, 0.0)


def test_a_row_without_a_decision_did_not_get_the_other_one() -> None:
    """Rate of the other decision: half of ten rows in each group, three of one without any decision."""
    decision = np.repeat([1, 0, 1, 0, -1], [5, 5, 2, 5, 3])
    of = fairness.rates(binary(1 * (decision == 1), decision), np.repeat([0, 1], 10))(np.ones((1, 20)))
    assert of.selection.ravel().tolist() == [0.5, 0.2]
    assert of.nonselection.ravel().tolist() == [0.5, 0.5]
    assert value("nonselection_ratio", of) == 1.0
    assert value("demographic_parity_ratio", of) == pytest.approx(0.4)
