"""Confidence: 0 on a decision's edge, 1 as far from it as there is, and no decision changes nearer than it
says.
"""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.dataplane import Prediction
from penstock.serving.confidence import Edges
from penstock.serving.records import fill_confidence

SHARES = st.floats(0, 1)
INSIDE = st.floats(0.01, 0.99)
INTERVALS = st.none() | st.tuples(INSIDE, INSIDE).map(lambda pair: (min(pair), max(pair)))


def decision(probability: float, edges: Edges) -> str:
    """As the compiled graph decides between two classes."""
    if edges.abstains and edges.abstains[0] <= probability <= edges.abstains[1]:
        return "abstain"
    assert edges.threshold is not None
    return str(probability >= edges.threshold)


def confidence(edges: Edges, *probabilities: float) -> float:
    (found,) = edges.confidences([probabilities])
    return found


@given(INSIDE, INTERVALS, SHARES, SHARES)
def test_no_decision_changes_nearer_than_the_confidence(
    threshold: float, abstains: tuple[float, float] | None, one: float, other: float
) -> None:
    edges = Edges(threshold, abstains)
    found = confidence(edges, 1 - one, one)
    assert 0 <= found <= 1
    shortest = min(min(edge, 1 - edge) for edge in (threshold, *(abstains or ())))
    if abs(one - other) < found * shortest - 1e-12:
        assert decision(one, edges) == decision(other, edges)


@given(INSIDE, SHARES, SHARES)
def test_further_from_the_threshold_is_surer(threshold: float, one: float, other: float) -> None:
    near, far = sorted((one, other), key=lambda probability: abs(probability - threshold))
    if (near >= threshold) == (far >= threshold):
        edges = Edges(threshold)
        assert confidence(edges, 1 - near, near) <= confidence(edges, 1 - far, far) + 1e-12


@given(st.lists(SHARES, min_size=3, max_size=6).filter(lambda row: sum(row) > 0.1))
def test_of_more_classes_it_is_the_margin(weights: list[float]) -> None:
    row = [weight / sum(weights) for weight in weights]
    first, second, *_ = sorted(row, reverse=True)
    assert confidence(Edges(None), *row) == pytest.approx(first - second)
    assert confidence(Edges(None, (0.0, 1.0)), *row) == 0


def test_each_side_of_the_edge_has_its_own_scale() -> None:
    edges = Edges(0.2)
    assert [confidence(edges, 1 - p, p) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([1, 0.5, 0, 0.5, 1])
    assert confidence(Edges(0.2, (0.5, 0.7)), 0.4, 0.6) == 0
    assert confidence(edges, nan, nan) == 0
    assert confidence(Edges(1.0), 0.0, 1.0) == 0  # a threshold may lie at the end


def test_a_record_is_marked_where_a_row_lies_below_the_bound() -> None:
    def marked(*rows: float, below: float | None = 0.3) -> Prediction:
        said: Prediction = {"probabilities": [[1 - p, p] for p in rows]}  # type: ignore[typeddict-item]
        fill_confidence(said, Edges(0.5), below)
        return said

    assert marked(0.9, 0.6)["for_labelling"]
    assert marked(0.9, 0.6)["confidence"] == pytest.approx([0.8, 0.2])
    assert not marked(0.9, 0.1)["for_labelling"]
    assert "for_labelling" not in marked(0.6, below=None)
    assert "confidence" not in marked()
