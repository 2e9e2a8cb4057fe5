"""The compiled nodes against the same arithmetic written out in Python."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid
from penstock.modelkit.features import WordWeights, transform
from penstock.modelkit.preprocessing import SMALLEST_SCALE, Category, Preprocessing, Text, fit
from penstock.modelkit.rows import signature
from penstock.modelkit.words import SEPARATORS, split_words, tokeniser

# One example runs two small graphs; a slow machine must not fail it.
relaxed = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.one_of(st.just(math.nan), st.floats(-1e6, 1e6), st.integers(-3, 3).map(float))
odd_numbers = st.one_of(numbers, st.sampled_from([math.inf, -math.inf, 1e300, -1e300]))
categories = st.one_of(
    st.sampled_from(["", "a", "b", "B", " b", "ü x", "日本", "🙂"]),
    st.text(max_size=4).filter(lambda t: "\0" not in t),
)
letters = st.sampled_from(list("abcABéÉß日🙂 \t\n.,;:!?()[]\"/'-_"))
texts = st.one_of(st.just(""), st.text(letters, max_size=30))


def fitted(
    world: Any, fields: dict[str, str], features: dict[str, Any], train: Any, bins: int = 0
) -> Preprocessing:
    pipeline = world.pipeline(fields, features)
    return fit(pipeline, signature(pipeline, ("false", "true")), train, bins=bins)


def prepare(found: Preprocessing, rows: Any) -> SimpleNamespace:
    """Inputs of a network."""
    made = transform(found, rows, lambda features: features.tensors(pieces=True))
    return SimpleNamespace(
        dense=made.get("dense", np.empty((len(rows), 0))),
        buckets=made.get("buckets", np.empty((len(rows), 0))),
        words=[part for part in made.values() if isinstance(part, WordWeights)],
    )


@relaxed
@given(
    train=st.lists(numbers, min_size=1, max_size=30).filter(lambda column: any(map(math.isfinite, column))),
    other=st.lists(odd_numbers, min_size=1, max_size=10),
    impute=st.sampled_from(["median", "mean", "zero"]),
    clip=st.sampled_from([None, ("p10", "p90"), (-2, "p99"), (-5, 5)]),
    scale=st.sampled_from(["standard", "minmax", "none"]),
    bins=st.sampled_from([0, 4, 9]),
)
@example(train=[0.0, 1.9e-82], other=[math.nan], impute="median", clip=None, scale="standard", bins=0)
def test_a_number_is_clipped_imputed_scaled(
    world: Any,
    rows: Any,
    train: list[float],
    other: list[float],
    impute: str,
    clip: Any,
    scale: str,
    bins: int,
) -> None:
    feature = {"impute": impute, "scale": scale, **({"clip": clip} if clip else {})}
    found = fitted(world, {"x": "number"}, {"x": feature}, rows([train]), bins)
    present = np.array([value for value in train if math.isfinite(value)])
    low, high = (_bound(bound, present) for bound in clip) if clip else (-math.inf, math.inf)
    clipped = np.clip(present, low, high)
    fill = {"median": np.median(clipped), "mean": clipped.mean(), "zero": 0.0}[impute]
    offset, spread = {
        "standard": (clipped.mean(), clipped.std()),
        "minmax": (clipped.min(), clipped.max() - clipped.min()),
        "none": (0.0, 1.0),
    }[scale]
    spread = spread if spread > max(abs(offset) * 1e-12, SMALLEST_SCALE) else 1.0
    expected = []
    for value in other:
        filled = min(max(value, low), high) if math.isfinite(value) else fill
        row = [min(max((filled - offset) / spread, -1e6), 1e6)]
        if len(present) < len(train):
            row.append(float(not math.isfinite(value)))
        edges = found.numbers[0].edges
        row += [min(max((filled - a) / (b - a), 0.0), 1.0) for a, b in itertools.pairwise(edges)]
        expected.append(row)
    got = prepare(found, rows([other])).dense
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.array(expected, dtype=np.float32), rtol=1e-5, atol=1e-6)


def _bound(bound: str | float, present: Any) -> float:
    return float(np.percentile(present, float(bound[1:]))) if isinstance(bound, str) else float(bound)


@relaxed
@given(
    train=st.lists(categories, min_size=1, max_size=40).filter(any),
    other=st.lists(categories, min_size=1, max_size=12),
    min_count=st.integers(1, 3),
    encode=st.sampled_from(["one_hot", "embedding"]),
)
def test_a_category_has_a_bucket(
    world: Any, rows: Any, train: list[str], other: list[str], min_count: int, encode: str
) -> None:
    found = fitted(
        world, {"c": "category"}, {"c": {"encode": encode, "min_count": min_count}}, rows((), [train])
    )
    part = found.strings[0]
    assert isinstance(part, Category)
    seen = Counter(value for value in train if value)
    known = {value for value, count in seen.items() if count >= min_count}
    assert set(part.values) == known
    buckets = [
        0 if not value else 1 + part.values.index(value) if value in known else len(known) + 1
        for value in other
    ]
    prepared = prepare(found, rows((), [other]))
    if encode == "embedding":
        assert prepared.buckets[:, 0].tolist() == buckets
        return
    shares = np.bincount(
        [0 if not v else 1 + part.values.index(v) if v in known else len(known) + 1 for v in train],
        minlength=len(known) + 2,
    )
    table = np.eye(len(known) + 2)
    table[shares == 0] = shares / shares.sum()
    np.testing.assert_allclose(prepared.dense, table[buckets].astype(np.float32), rtol=1e-6)


@relaxed
@given(
    train=st.lists(texts, min_size=1, max_size=20),
    other=st.lists(texts, min_size=1, max_size=8),
    vocabulary=st.integers(1, 6),
)
def test_a_text_is_weighted_words(
    world: Any, rows: Any, train: list[str], other: list[str], vocabulary: int
) -> None:
    split = [_words(text) for text in train]
    if not any(split):
        with pytest.raises(Invalid):
            fitted(
                world,
                {"t": "text"},
                {"t": {"encode": "bag_of_words", "vocabulary": vocabulary}},
                rows((), [train]),
            )
        return
    found = fitted(
        world, {"t": "text"}, {"t": {"encode": "bag_of_words", "vocabulary": vocabulary}}, rows((), [train])
    )
    part = found.strings[0]
    assert isinstance(part, Text)
    total = Counter(word for words in split for word in words)
    assert list(part.words) == sorted(total, key=lambda word: (-total[word], word))[:vocabulary]
    prepared = prepare(found, rows((), [other]))
    matrix = np.zeros((len(other), len(part.words)))
    weights = prepared.words[0]
    for row in range(len(other)):
        here = slice(weights.starts[row], weights.starts[row + 1])
        matrix[row, weights.columns[here]] = weights.weights[here]
    for row, text in enumerate(other):
        counts = np.array([_words(text).count(word) for word in part.words])
        holding = np.array([sum(word in words for words in split) for word in part.words])
        raw = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * (
            np.log((1 + len(train)) / (1 + holding)) + 1
        )
        np.testing.assert_allclose(
            matrix[row], raw / max(np.sqrt((raw**2).sum()), 1e-6), rtol=1e-4, atol=1e-6
        )
    if part.indicator:
        assert prepared.dense[:, 0].tolist() == [float(text == "") for text in other]


def _words(text: str) -> list[str]:
    words = [text.lower()]
    for separator in SEPARATORS:
        words = [piece for word in words for piece in word.split(separator)]
    return [word for word in words if word]


@relaxed
@given(column=st.lists(texts, max_size=12))
def test_the_graph_splits_words_as_said(column: list[str]) -> None:
    texts = np.array(column, dtype=object)
    found = [words for chunk in split_words(texts, tokeniser(), chunk=5) for words in chunk]
    assert found == [_words(text) for text in column]


def test_one_long_text_is_bounded() -> None:
    long = np.array(["a " * 5000, "x," * 40, "b"], dtype=object)
    words = next(split_words(long, tokeniser()))
    assert words[0][:4095] == ["a"] * 4095
    assert len(words[0]) == 4096
    assert words[1][:31] == ["x"] * 31
    assert len(words[1]) == 32
    assert words[2] == ["b"]


def test_nothing_is_learned_from_other_rows(world: Any, rows: Any) -> None:
    train = rows([[1.0, 2.0, math.nan]], [["a", "b", ""]])
    found = fitted(world, {"x": "number", "c": "category"}, {"x": {}, "c": {"encode": "one_hot"}}, train)
    before = prepare(found, train).dense
    prepare(found, rows([[1e9]], [["z"]]))
    assert (prepare(found, train).dense == before).all()


def test_an_indicator_only_where_training_misses_something(world: Any, rows: Any) -> None:
    whole = fitted(world, {"x": "number"}, {"x": {}}, rows([[1.0, 2.0]]))
    gaps = fitted(world, {"x": "number"}, {"x": {}}, rows([[1.0, math.nan, 2.0]]))
    assert prepare(whole, rows([[math.nan]])).dense.shape == (1, 1)
    assert prepare(gaps, rows([[math.nan, 1.0]])).dense[:, 1].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["number", "category", "text"])
def test_a_field_that_is_always_missing_is_a_sentence(world: Any, rows: Any, kind: str) -> None:
    train = rows([[math.nan] * 3]) if kind == "number" else rows((), [[""] * 3])
    with pytest.raises(Invalid) as caught:
        fitted(world, {"income": kind}, {"income": {}}, train)
    assert str(caught.value) == (
        "features.income: the field `rows.income` is missing in all 3 training rows. "
        "Leave the feature out, or publish events that carry the field"
    )


def test_no_rows_no_trouble(world: Any, rows: Any) -> None:
    fields = {"x": "number", "c": "category", "d": "category", "t": "text"}
    features = {"x": {}, "c": {"encode": "one_hot"}, "d": {"encode": "embedding"}, "t": {}}
    found = fitted(world, fields, features, rows([[1.0, 2.0]], [["a", "b"], ["p", "q"], ["one two", "two"]]))
    empty = prepare(found, rows([[]], [[], [], []], count=0))
    assert empty.dense.shape == (0, 1 + 4)
    assert empty.buckets.shape == (0, 1)
    assert empty.words[0].starts.tolist() == [0]
