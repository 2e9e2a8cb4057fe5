"""The notions by weights equal fairlearn's, and measures by weights equal scikit-learn's on the
drawn rows.
"""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from penstock_ethics_audit import fairness
from penstock_ethics_audit.groups import divide
from penstock_ethics_audit.performance import estimate, performance
from penstock_ethics_audit.scores import Codes, Floats, Scores


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


@given(decided())
@settings(max_examples=10, deadline=None)
def test_notions_equal_fairlearns(rows: tuple[Codes, Codes, Codes]) -> None:
    truth, decision, group = rows
    scores, grouping = binary(truth, decision), divide("g", group.astype(str).tolist())
    of = fairness.rates(scores, grouping)(np.ones((1, len(truth))))
    official = fairness.by_fairlearn(scores, grouping)
    for notion in fairness.NOTIONS:
        row_by_row = getattr(fairlearn, notion)(truth, decision, sensitive_features=group)
        assert official[notion] == pytest.approx(row_by_row, abs=1e-12, nan_ok=True)
        ours = fairness.extreme(notion, fairness.contrasts(notion, of))[0]
        if notion == "demographic_parity_ratio" and not decision.any():
            assert ours == 1.0  # nobody is selected anywhere: parity; fairlearn divides nothing by nothing
        else:
            assert ours == pytest.approx(official[notion], abs=1e-12)


@given(decided(), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_a_weighting_is_the_rows_drawn_that_often(rows: tuple[Codes, Codes, Codes], random: object) -> None:
    truth, decision, group = rows
    weights = np.array([[random.randint(1, 3) for _ in truth]], dtype=float)  # type: ignore[attr-defined]
    drawn = np.repeat(np.arange(len(truth)), weights[0].astype(int))
    of = fairness.rates(binary(truth, decision), divide("g", group.astype(str).tolist()))(weights)
    ours = fairness.extreme("equalized_odds_difference", fairness.contrasts("equalized_odds_difference", of))[
        0
    ]
    theirs = fairlearn.equalized_odds_difference(
        truth[drawn], decision[drawn], sensitive_features=group[drawn]
    )
    assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_performance_equals_scikit_learns_on_the_drawn_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, 80)
    p = np.round(generator.random(80), 1 if seed % 2 else 6).clip(0.01, 0.99)  # with ties, and without
    weights = generator.integers(0, 4, (1, 80)).astype(float)
    drawn = np.repeat(np.arange(80), weights[0].astype(int))
    decision = (p >= 0.4).astype(int)
    ours = {name: value[0] for name, value in performance(binary(truth, decision, p))(weights).items()}
    y, q, d = truth[drawn], p[drawn], decision[drawn]
    assert ours["auroc"] == pytest.approx(sklearn.roc_auc_score(y, q))
    assert ours["accuracy"] == pytest.approx(sklearn.accuracy_score(y, d))
    assert ours["f1"] == pytest.approx(sklearn.f1_score(y, d))
    assert ours["log_loss"] == pytest.approx(sklearn.log_loss(y, q))
    assert ours["brier"] == pytest.approx(sklearn.brier_score_loss(y, q))


def test_several_classes_equal_scikit_learns() -> None:
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 3, 200)
    p = generator.dirichlet(np.ones(3), 200)
    scores = Scores("multiclass", truth.astype(float), np.arange(200), ("a", "b", "c"), p, p.argmax(axis=1))
    ours = estimate(performance(scores), 200)
    assert ours["auroc"] == pytest.approx(sklearn.roc_auc_score(truth, p, multi_class="ovr"))
    assert ours["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, p.argmax(axis=1)))
    assert ours["f1"] == pytest.approx(sklearn.f1_score(truth, p.argmax(axis=1), average="macro"))
    assert ours["log_loss"] == pytest.approx(sklearn.log_loss(truth, p))
    grouping = divide("g", generator.choice(["x", "y"], 200).tolist())
    of = fairness.rates(scores, grouping)(np.ones((1, 200)))
    for notion in fairness.NOTIONS:
        assert fairness.extreme(notion, fairness.contrasts(notion, of))[0] == pytest.approx(
            fairness.by_fairlearn(scores, grouping)[notion]
        )


def test_a_regression_equals_scikit_learns() -> None:
    generator = np.random.default_rng(4)
    y, said = generator.normal(50, 9, 120), generator.normal(50, 9, 120)
    weights = generator.integers(0, 4, (1, 120)).astype(float)
    drawn = np.repeat(np.arange(120), weights[0].astype(int))
    ours = {
        name: value[0]
        for name, value in performance(Scores("regression", y, np.arange(120), values=said))(weights).items()
    }
    assert ours["rmse"] == pytest.approx(sklearn.root_mean_squared_error(y[drawn], said[drawn]))
    assert ours["mae"] == pytest.approx(sklearn.mean_absolute_error(y[drawn], said[drawn]))
    assert ours["r2"] == pytest.approx(sklearn.r2_score(y[drawn], said[drawn]))
    assert ours["mean_error"] == pytest.approx((said - y)[drawn].mean())


def test_what_is_undefined_is_nan_and_not_zero() -> None:
    ones = np.ones(5, dtype=int)
    found = estimate(performance(binary(ones, ones)), 5)
    assert np.isnan(found["auroc"])
    assert found["accuracy"] == 1.0
    constant = Scores("regression", np.full(5, 3.0), np.arange(5), values=np.arange(5.0))
    assert np.isnan(estimate(performance(constant), 5)["r2"])


def test_an_abstained_row_is_not_selected_and_not_counted_right_or_wrong() -> None:
    truth = np.array([1, 1, 0, 0])
    scores = binary(truth, np.array([1, -1, 0, -1]))
    found = estimate(performance(scores), 4)
    assert (found["accuracy"], found["abstained"]) == (1.0, 0.5)
    of = fairness.rates(scores, divide("g", ["x"] * 4))(np.ones((1, 4)))
    assert (of.selection[0, 0, 0], of.true_positive[0, 0, 0], of.false_positive[0, 0, 0]) == (0.25, 0.5, 0.0)
