"""Champion against challenger: the measures are right, pairing pays, and the interval covers."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from penstock.contracts.errors import Invalid
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Promotion
from penstock.measures.performance import performance
from penstock.measures.scores import Scores
from penstock_model_registry.comparison import MIN_PAIRED_ROWS, Scored, compare, read_scores

N = 400
GENERATOR = np.random.default_rng(1)
TRUTH = GENERATOR.integers(0, 2, N).astype(float)
ROWS = np.array([f"{index:05d}" for index in range(N)], np.bytes_)


def scored(
    rows: NDArray[np.bytes_],
    entities: NDArray[Any],
    labels: NDArray[np.float64],
    probabilities: NDArray[np.float64] | None = None,
    values: NDArray[np.float64] | None = None,
) -> Scored:
    task: Task = "regression" if probabilities is None else "binary"
    units = np.unique(entities, return_inverse=True)[1]
    return Scored(rows, Scores(task, labels, units, probabilities=probabilities, values=values))


def binary(
    noise: float, seed: int, rows: NDArray[np.bytes_] = ROWS, truth: NDArray[np.float64] = TRUTH
) -> Scored:
    draws = np.random.default_rng(seed).normal(size=len(truth))
    positive = np.round(1 / (1 + np.exp(-(2 * truth - 1 + noise * draws))), 2)  # rounded: ties
    return scored(rows, rows, truth, probabilities=np.stack([1 - positive, positive], axis=1))


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("auroc", lambda y, p: metrics.roc_auc_score(y, p)),
        ("accuracy", lambda y, p: metrics.accuracy_score(y, p > 0.5)),
        ("log_loss", lambda y, p: metrics.log_loss(y, p)),
        ("brier", lambda y, p: metrics.brier_score_loss(y, p)),
    ],
)
def test_measures_are_those_of_scikit_learn(metric: str, reference: Callable[..., float]) -> None:
    scores = binary(1.5, 2).scores
    weights = np.random.default_rng(3).integers(0, 3, (2, N)).astype(float)
    found = performance(scores)(np.vstack([np.ones((1, N)), weights]))[metric]
    positive = scores.said[:, 1]
    assert found[0] == pytest.approx(reference(TRUTH, positive))
    repeated = np.repeat(np.arange(N), weights[0].astype(int))
    assert found[1] == pytest.approx(reference(TRUTH[repeated], positive[repeated]))


def test_regression_measures() -> None:
    values = scored(ROWS, ROWS, TRUTH, values=TRUTH + 2)
    found = performance(values.scores)(np.ones((1, N)))
    assert found["rmse"][0] == found["mae"][0] == 2
    with pytest.raises(Invalid, match="no probabilities"):
        compare(values, values, "auroc", confidence=0.95, resamples=200)
    with pytest.raises(Invalid, match=r"rmse cannot .* hold probabilities of two classes"):
        compare(binary(1, 1), binary(1, 2), "rmse", confidence=0.95, resamples=200)


def test_the_drop_has_the_sign_of_worse() -> None:
    good, bad = binary(0.5, 4), binary(3, 5)
    for metric in ("auroc", "accuracy", "log_loss", "brier"):
        worse = compare(good, bad, metric, confidence=0.95, resamples=300)
        better = compare(bad, good, metric, confidence=0.95, resamples=300)
        assert worse.interval.lower > 0 > better.interval.upper, metric
        assert worse.paired
        assert worse.rows == N


def test_a_model_against_itself_drops_by_nothing() -> None:
    interval = compare(binary(1, 6), binary(1, 6), "auroc", confidence=0.95, resamples=200).interval
    assert (interval.lower, interval.estimate, interval.upper) == (0, 0, 0)


def test_only_common_rows_with_the_same_label_are_paired_in_any_order() -> None:
    order = np.random.default_rng(7).permutation(N)
    shuffled = binary(1, 6).take(order)
    assert compare(binary(1, 6), shuffled, "auroc", confidence=0.95, resamples=200).interval.upper == 0
    part = binary(1, 6).take(np.arange(150))
    assert compare(binary(1, 6), part, "auroc", confidence=0.95, resamples=200).rows == 150
    labels = part.scores.labels.copy()
    labels[:30] = 1 - labels[:30]
    changed = scored(part.rows, part.rows, labels, part.scores.probabilities)
    assert compare(binary(1, 6), changed, "auroc", confidence=0.95, resamples=200).rows == 120


def test_with_few_common_rows_the_splits_are_drawn_apart_and_the_interval_is_wider() -> None:
    good, near = binary(1, 8), binary(1, 9)
    mixed = scored(near.rows, near.rows, near.scores.labels, 0.9 * good.scores.said + 0.1 * near.scores.said)
    paired = compare(good, mixed, "auroc", confidence=0.95, resamples=400)
    apart_rows = np.array(
        [f"x{row}" if index >= MIN_PAIRED_ROWS - 1 else row for index, row in enumerate(ROWS)]
    )
    apart = compare(
        good,
        scored(apart_rows, apart_rows, mixed.scores.labels, mixed.scores.probabilities),
        "auroc",
        confidence=0.95,
        resamples=400,
    )
    assert paired.paired
    assert not apart.paired
    assert apart.interval.estimate == pytest.approx(paired.interval.estimate)
    assert apart.interval.upper > paired.interval.upper + 0.005
    assert "too few rows to pair" in apart.sentence(Promotion(), by_data=False)


def test_rows_of_one_entity_are_drawn_together() -> None:
    champion = binary(1, 10, truth=TRUTH)
    challenger = binary(1, 11, truth=TRUTH)
    tenfold = np.tile(np.arange(40), 10)
    first, second = (one.scores.take(tenfold) for one in (champion, challenger))
    rows = np.array([f"{index:05d}" for index in range(400)])
    entities = np.array([str(index) for index in tenfold])
    alone = compare(
        scored(rows, rows, first.labels, first.probabilities),
        scored(rows, rows, second.labels, second.probabilities),
        "brier",
        confidence=0.95,
        resamples=300,
    )
    together = compare(
        scored(rows, entities, first.labels, first.probabilities),
        scored(rows, entities, second.labels, second.probabilities),
        "brier",
        confidence=0.95,
        resamples=300,
    )
    width = together.interval.upper - together.interval.lower
    assert width > 2 * (alone.interval.upper - alone.interval.lower), "copies of a row are no new rows"


def test_splits_of_different_size_are_compared_however_many_draws_that_leaves() -> None:
    """More rows than MAX_DRAWS allows resamples for: both get as many draws as the larger affords."""
    many = 60_000
    truth = np.random.default_rng(12).integers(0, 2, many).astype(float)
    rows = np.array([f"x{index:05d}" for index in range(many)], np.bytes_)
    apart = compare(binary(1, 13), binary(1, 14, rows, truth), "brier", confidence=0.95, resamples=1000)
    assert not apart.paired
    assert apart.rows == N


def test_one_class_only_is_said() -> None:
    same = np.zeros(N)
    with pytest.raises(Invalid, match="auroc cannot be compared on 400 audit rows"):
        compare(binary(1, 1, truth=same), binary(1, 2, truth=same), "auroc", confidence=0.95, resamples=200)


def test_two_equal_models_pass_as_often_as_the_confidence_says() -> None:
    """Of 60 pairs of equally good models, the true drop (0) lies above the upper bound in about 2.5 %."""
    missed = 0
    for seed in range(60):
        generator = np.random.default_rng(100 + seed)
        truth = generator.integers(0, 2, 200).astype(float)
        rows = ROWS[:200]
        interval = compare(
            binary(1.5, 200 + seed, rows, truth),
            binary(1.5, 300 + seed, rows, truth),
            "auroc",
            confidence=0.95,
            resamples=200,
        ).interval
        missed += interval.upper < 0
    assert missed <= 6


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BROKEN = (
    b"",
    b"PAR1",
    npy(np.arange(3)),
    npz(row=["a"], label=[1.0])[:-40],
    npz(label=[1.0]),
    npz(row=["a"], label=[1.0, 2.0]),
    npz(row=np.array(["a", None]), label=[1.0, 2.0]),  # a pickle
)


def test_scores_are_read_as_the_audit_writes_them() -> None:
    read = read_scores(
        npz(
            row=["b", "a", "a"],
            entity=["e", "f", "f"],
            label=[1.0, 0.0, 0.0],
            probability=[0.75, 0.5, 0.5],
            decision=[1, -1, -1],
        )
    )
    assert read.rows.tolist() == [b"a", b"b"], "each row once"
    assert read.scores.task == "binary"
    assert read.scores.said.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert read.scores.chosen.tolist() == [-1, 1]
    several = read_scores(
        npz(row=["a"], entity=["e"], label=[2.0], probabilities=[[0.1, 0.2, 0.7]], decision=[2])
    )
    assert several.scores.task == "multiclass"
    assert several.scores.said.shape == (1, 3)
    number = read_scores(npz(row=["a"], entity=["e"], label=[2.5], value=[2.0]))
    assert number.scores.task == "regression"
    assert number.scores.said.tolist() == [2.0]
    for broken in BROKEN:
        with pytest.raises(Invalid, match="cannot be read"):
            read_scores(broken)
