"""Measures over rows equal scikit-learn's to 1e-12 under any weights, with ties, abstained rows and
absent classes, and are undefined where the table says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from penstock.contracts.measures import MEASURES, Task, over_rows
from penstock.measures.performance import FORMULAS, performance, ranks
from penstock.measures.scores import ABSTAINED, Codes, Floats, Scores
from penstock.measures.weighted import estimate

quick = settings(max_examples=60, deadline=None)
WEIGHTS = st.sampled_from([0.0, 1.0, 2.0, 0.5, 3.0])


@dataclass
class Rows:
    """Some weighted rows; the properties are those that have a weight: what scikit-learn is asked about."""

    scores: Scores
    weights: Floats

    @property
    def there(self) -> Codes:
        return np.flatnonzero(self.weights)

    @property
    def of(self) -> Scores:
        return self.scores.take(self.there)

    @property
    def weight(self) -> Floats:
        return self.weights[self.there]

    def found(self) -> dict[str, float]:
        """Computed beside other weightings: a piece of draws has many."""
        many = np.stack([np.ones(len(self.weights)), self.weights, self.weights[::-1]])
        return {name: float(value[1]) for name, value in performance(self.scores)(many).items()}


@st.composite
def classified(draw: st.DrawFn, k: int) -> Rows:
    """Labels of up to `k` classes, perhaps of one; probabilities with ties, 0 and 1 among them."""
    n = draw(st.integers(1, 30))
    many = {"min_size": n, "max_size": n}
    labels = np.array(draw(st.lists(st.integers(0, k - 1), **many)))
    shares = np.array(draw(st.lists(st.tuples(*[st.integers(0, 3)] * k).filter(any), **many)), dtype=float)
    decisions = np.array(draw(st.lists(st.integers(ABSTAINED, k - 1), **many)))
    weights = np.array(draw(st.lists(WEIGHTS, **many).filter(any)))
    p = shares / shares.sum(axis=1, keepdims=True)
    task: Task = "binary" if k == 2 else "multiclass"
    return Rows(Scores(task, labels.astype(float), np.arange(n), (), p, decisions), weights)


@quick
@given(classified(2))
def test_two_classes(rows: Rows) -> None:
    ours, of, w = rows.found(), rows.of, rows.weight
    p, decided = of.said[:, 1], of.chosen != ABSTAINED
    if len(set(of.labels)) == 2:
        assert ours["auroc"] == pytest.approx(sk.roc_auc_score(of.labels, p, sample_weight=w), abs=1e-12)
    else:
        assert np.isnan(ours["auroc"])
    positive = (of.labels == 1, of.chosen == 1)
    if any(of_class.any() for of_class in positive):
        assert ours["f1"] == pytest.approx(sk.f1_score(*positive, sample_weight=w), abs=1e-12)
    else:
        assert np.isnan(ours["f1"])
    if positive[1].any():
        theirs = sk.precision_score(*positive, sample_weight=w)
        assert ours["precision"] == pytest.approx(theirs, abs=1e-12)
    else:
        assert np.isnan(ours["precision"])
    theirs = sk.brier_score_loss(of.labels, p, sample_weight=w, pos_label=1)
    assert ours["brier"] == pytest.approx(theirs, abs=1e-12)
    _alike(rows, ours, decided)


@quick
@given(classified(3))
def test_several_classes(rows: Rows) -> None:
    ours, of, w = rows.found(), rows.of, rows.weight
    if len(set(of.labels)) == 3:
        theirs = sk.roc_auc_score(np.eye(3)[of.labels.astype(int)], of.said, average="macro", sample_weight=w)
        assert ours["auroc"] == pytest.approx(theirs, abs=1e-12)
    else:
        assert np.isnan(ours["auroc"])
    present = sorted({*of.labels.astype(int), *of.chosen} - {ABSTAINED})
    theirs = sk.f1_score(of.labels, of.chosen, labels=present, average="macro", sample_weight=w)
    assert ours["f1"] == pytest.approx(theirs, abs=1e-12)
    theirs = sk.brier_score_loss(of.labels, of.said, labels=[0, 1, 2], sample_weight=w, scale_by_half=False)
    assert ours["brier"] == pytest.approx(theirs, abs=1e-12)
    _alike(rows, ours, of.chosen != ABSTAINED)


def _alike(rows: Rows, ours: dict[str, float], decided: Floats) -> None:
    """Measures that do not depend on the number of classes."""
    of, w = rows.of, rows.weight
    labels = list(range(of.said.shape[1]))
    theirs = sk.log_loss(of.labels, of.said, labels=labels, sample_weight=w)
    assert ours["log_loss"] == pytest.approx(theirs, abs=1e-12)
    if decided.any():
        theirs = sk.accuracy_score(of.labels[decided], of.chosen[decided], sample_weight=w[decided])
        assert ours["accuracy"] == pytest.approx(theirs, abs=1e-12)
    else:
        assert np.isnan(ours["accuracy"])
    assert ("abstained" in ours) == (rows.scores.chosen == ABSTAINED).any()
    assert ours.get("abstained", 0.0) == pytest.approx(np.average(~decided, weights=w), abs=1e-12)
    _within_range(ours, of.task)


@pytest.mark.parametrize("noise", [-7e-8, 0.0, 7e-8])
def test_an_end_that_is_rounded_covers_what_it_is_meant_to(noise: float) -> None:
    """Counts, two in five of them 0, and a lower end that is meant to be 0."""
    y = np.tile([0.0, 0.0, 1.0, 4.0, 12.0], 40)
    of = np.arange(len(y))

    def covered(lower: float, upper: float, group: Codes = of) -> float:
        ends = np.tile([lower, upper], (len(y), 1))
        scores = Scores.of_numbers(y, of, y, ends).take(group)
        return Rows(scores, np.ones(len(scores))).found()["coverage"]

    assert covered(noise, 4 + noise) == 0.8
    assert covered(noise, noise, of[y == 0]) == 1  # of a group that has one label, too
    assert (covered(1e-4, 4), covered(0, 4 - 1e-4)) == (0.4, 0.6)


def _within_range(ours: dict[str, float], task: Task) -> None:
    for name, value in ours.items():
        low, high = MEASURES[name].range
        if name == "brier" and task == "multiclass":
            high = 2  # summed over the classes
        assert np.isnan(value) or low - 1e-12 <= value <= high + 1e-12, name


@quick
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), WEIGHTS), min_size=1, max_size=30))
def test_numbers(drawn: list[tuple[int, int, float]]) -> None:
    y, said, weights = np.array(drawn, dtype=float).T
    if not weights.any():
        return
    ends = np.stack([said / 2 - 1, said / 2 + 2], axis=1)
    rows = Rows(Scores("regression", y / 2, np.arange(len(y)), values=said / 2, intervals=ends), weights)
    ours, of, w = rows.found(), rows.of, rows.weight
    above = of.labels - of.said
    assert ours["coverage"] == pytest.approx(np.average((above >= -1) & (above <= 2), weights=w))
    assert ours["interval_width"] == pytest.approx(3)
    error = (of.labels, of.said)
    assert ours["rmse"] == pytest.approx(sk.root_mean_squared_error(*error, sample_weight=w), abs=1e-12)
    assert ours["mae"] == pytest.approx(sk.mean_absolute_error(*error, sample_weight=w), abs=1e-12)
    assert ours["mean_error"] == pytest.approx(np.average(of.said - of.labels, weights=w), abs=1e-12)
    if len(set(of.labels)) > 1:
        assert ours["r2"] == pytest.approx(sk.r2_score(*error, sample_weight=w), rel=1e-12, abs=1e-12)
    else:
        assert np.isnan(ours["r2"])
    _within_range(ours, "regression")


@quick
@given(st.lists(st.tuples(st.booleans(), st.integers(-9, 9)), min_size=2, max_size=40))
def test_ranks_of_any_score_give_auroc(drawn: list[tuple[bool, int]]) -> None:
    positive, score = (np.array(column) for column in zip(*drawn, strict=True))
    found = ranks(positive, score / 4)(np.ones((1, len(score))))[0]
    if positive.any() and not positive.all():
        assert found == pytest.approx(sk.roc_auc_score(positive, score), abs=1e-12)
    else:
        assert np.isnan(found)


def test_the_likeliest_class_counts_where_nothing_was_decided() -> None:
    p = np.array([[0.2, 0.8], [0.6, 0.4]])
    found = estimate(performance(Scores("binary", np.array([1.0, 0.0]), np.arange(2), (), p)), 2)
    assert found["accuracy"] == 1.0


def test_a_certain_error_costs_as_much_as_in_scikit_learn() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    found = estimate(performance(Scores("binary", np.array([1.0, 0.0]), np.arange(2), (), p)), 2)
    assert found["log_loss"] == pytest.approx(sk.log_loss([1, 0], p), abs=1e-12)
    assert found["log_loss"] > 18, "36 nats for the certain error, 0.7 for the other row"


def test_calibration_error_is_the_mean_distance_over_bins_of_equal_mass() -> None:
    generator = np.random.default_rng(1)
    p = generator.random(1000)
    y = (generator.random(1000) < p).astype(float)
    order = np.argsort(p)
    by_hand = sum(abs((p[part] - y[part]).sum()) for part in np.array_split(order, 10)) / 1000
    scores = Scores("binary", y, np.arange(1000), (), np.stack([1 - p, p], axis=1))
    assert estimate(performance(scores), 1000)["calibration_error"] == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_of_no_rows_nothing_is_defined(task: Task) -> None:
    none = np.zeros(0)
    said = {"values": none} if task == "regression" else {"probabilities": np.zeros((0, 3))}
    found = estimate(performance(Scores(task, none, none.astype(int), **said)), 0)
    assert found
    assert all(np.isnan(value) for value in found.values())


def test_the_table_and_the_functions_name_the_same() -> None:
    assert set(FORMULAS) == {name for name, measure in MEASURES.items() if not measure.between_groups}
    for task in ("binary", "multiclass", "regression"):
        assert {m.name for m in over_rows(task)} <= set(FORMULAS)


@pytest.mark.parametrize("name", ["accuracy", "f1", "brier", "auroc", "calibration_error"])
def test_weights_of_bytes_say_what_floats_do(name: str) -> None:
    """As draws come: their sums go beyond a byte."""
    generator = np.random.default_rng(2)
    truth, p = generator.integers(0, 2, 700), generator.random(700)
    scores = Scores("binary", truth * 1.0, np.arange(700), (), np.stack([1 - p, p], axis=1))
    weights = generator.integers(0, 6, (3, 700)).astype(np.uint8)
    meter = FORMULAS[name](scores)
    assert meter is not None
    assert meter(weights) == pytest.approx(meter(weights.astype(np.float64)), abs=1e-12)
    assert performance(scores)(weights)[name] == pytest.approx(meter(weights), abs=1e-12)
