from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from penstock.contracts.pipeline import Decision, Threshold
from penstock.modelkit import metrics
from penstock.modelkit.decision import choose_threshold, compile_decision
from penstock.modelkit.graph import DOUBLE, FLOAT, STRING, Graph, Runner

scored = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.71, 1.0])),
    min_size=4,
    max_size=40,
).filter(lambda rows: len({label for label, _ in rows}) == 2)


quick = settings(max_examples=25, deadline=None)


def arrays(rows: list[tuple[int, float]]) -> tuple[Any, Any]:
    return np.array([label for label, _ in rows]), np.array([score for _, score in rows], dtype=np.float32)


@quick
@given(rows=scored, choose=st.sampled_from(["max_f1", "max_accuracy"]))
def test_no_other_threshold_is_better(rows: list[tuple[int, float]], choose: Any) -> None:
    labels, scores = arrays(rows)
    worth = {
        "max_f1": lambda cut: sk.f1_score(labels == 1, scores >= cut, zero_division=0),
        "max_accuracy": lambda cut: float(np.mean(labels == (scores >= cut))),
    }[choose]
    chosen = choose_threshold(Decision(threshold=Threshold(choose=choose)), labels, scores)
    assert worth(np.float32(chosen)) == pytest.approx(max(worth(cut) for cut in (*np.unique(scores), 1.1)))


@quick
@given(rows=scored)
def test_a_threshold_lies_between_scores(rows: list[tuple[int, float]]) -> None:
    labels, scores = arrays(rows)
    chosen = choose_threshold(Decision(), labels, scores)
    assert np.abs(scores - chosen).min() >= 4e-7


@quick
@given(rows=scored, rate=st.floats(0.01, 0.99))
def test_a_rate_decides_that_share_positive(rows: list[tuple[int, float]], rate: float) -> None:
    """As near as equal scores let it."""
    labels, scores = arrays(rows)
    decision = Decision(threshold=Threshold(choose="rate", value=rate))
    chosen = np.float32(choose_threshold(decision, labels, scores))
    off = [abs(np.mean(scores >= cut) - rate) for cut in (*np.unique(scores), 1.1)]
    assert abs(np.mean(scores >= chosen) - rate) == pytest.approx(min(off))


def test_a_fixed_threshold_is_as_given() -> None:
    decision = Decision(threshold=Threshold(choose="fixed", value=0.8))
    assert choose_threshold(decision, np.array([0, 1]), np.array([0.1, 0.2])) == 0.8


def decided(
    probabilities: list[list[float]], classes: tuple[str, ...], threshold: float | None, abstain: Any
) -> list[str]:
    graph = Graph()
    given_ = graph.op("Cast", graph.input("numbers", DOUBLE, ["N", len(classes)]), to=FLOAT)
    graph.output(compile_decision(graph, given_, classes, threshold, abstain), "decision", STRING, ["N", 1])
    answers = Runner(graph.build("decision"))(np.array(probabilities), np.empty((0, 0)))
    return answers["decision"][:, 0].tolist()


def test_binary_decisions() -> None:
    rows = [[1 - p, p] for p in (0.1, 0.299, 0.3, 0.45, 0.5, 0.55, 0.551, 0.9)]
    assert decided(rows, ("no", "yes"), 0.3, None) == ["no", "no", *["yes"] * 6]
    assert decided(rows, ("no", "yes"), 0.3, (0.45, 0.55)) == [
        "no",
        "no",
        "yes",
        *["abstain"] * 3,
        "yes",
        "yes",
    ]


def test_a_probability_that_is_no_number_is_not_positive() -> None:
    assert decided([[np.nan, np.nan]], ("no", "yes"), 0.3, None) == ["no"]
    assert decided([[np.nan, np.nan]], ("no", "yes"), 0.3, (0.45, 0.55)) == ["abstain"]


def test_the_likeliest_of_many() -> None:
    rows = [[0.2, 0.5, 0.3], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8]]
    assert decided(rows, ("a", "ü", "c"), None, None) == ["ü", "a", "c"]


@quick
@given(rows=scored)
def test_metrics_are_those_of_scikit_learn(rows: list[tuple[int, float]]) -> None:
    labels, scores = arrays(rows)
    scores = scores.astype(np.float64)
    found = metrics.of_split("binary", labels, {"probabilities": np.stack([1 - scores, scores], axis=1)}, 0.5)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, scores))
    assert found["f1"] == pytest.approx(sk.f1_score(labels, scores >= 0.5, zero_division=0))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(labels, scores))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, scores >= 0.5))
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, scores), abs=1e-12)


def test_metrics_of_many_classes_and_of_values() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    probabilities = random.dirichlet([1, 1, 1], 200)
    found = metrics.of_split("multiclass", labels, {"probabilities": probabilities}, None)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found["f1"] == pytest.approx(sk.f1_score(labels, probabilities.argmax(axis=1), average="macro"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(labels, probabilities))
    truth, guess = random.normal(size=100), random.normal(size=100)
    assert metrics.of_split("regression", truth, {"value": guess[:, None]}, None) == pytest.approx(
        {
            "rmse": sk.root_mean_squared_error(truth, guess),
            "mae": sk.mean_absolute_error(truth, guess),
            "r2": sk.r2_score(truth, guess),
        }
    )


def test_what_is_undefined_on_the_split_is_left_out() -> None:
    """A class without a row has no AUROC; the target that never varies has no R²."""
    labels, probabilities = np.array([0, 1, 1, 0]), np.random.default_rng(1).dirichlet([1, 1, 1], 4)
    found = metrics.of_split("multiclass", labels, {"probabilities": probabilities}, None)
    assert set(found) == {"accuracy", "f1", "precision", "log_loss", "brier"}
    assert set(metrics.of_split("regression", np.ones(4), {"value": np.zeros((4, 1))}, None)) == {
        "rmse",
        "mae",
    }


def test_the_curve_shows_the_same_measures() -> None:
    random = np.random.default_rng(2)
    labels, logits = random.integers(0, 2, 60), random.normal(size=(60, 1)).astype(np.float32)
    assert metrics.of_epoch("binary", labels, logits) == ("auroc", sk.roc_auc_score(labels, logits))
    three = random.normal(size=(60, 3)).astype(np.float32)
    accuracy = sk.accuracy_score(labels, three.argmax(axis=1))
    assert metrics.of_epoch("multiclass", labels, three) == ("accuracy", pytest.approx(accuracy, abs=1e-12))
    rmse = sk.root_mean_squared_error(labels, logits.astype(np.float64))
    assert metrics.of_epoch("regression", labels, logits) == ("rmse", pytest.approx(rmse, abs=1e-12))
