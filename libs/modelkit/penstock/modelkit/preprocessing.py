"""Preprocessing: all that is learned about raw values, fitted on the training split alone.

Numbers: clip, then impute, then scale. Categories: known values in order of frequency, one bucket
for missing and one for unknown. Texts: weighted word counts. A bucket that the training split never
filled behaves like the average row, so that a first unknown value after deployment does not meet
untrained weights. `features` adds all of it to a graph.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import BagOfWords, Embedding, OneHot, Pipeline, Treatment
from penstock.contracts.pipeline import Number as NumberTreatment
from penstock.contracts.rules import clip_bounds
from penstock.modelkit.graph import Array
from penstock.modelkit.rows import Rows
from penstock.modelkit.words import split_words
from penstock.packages.parts import ModelSignature

MAX_BINS = 64
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""ONNX Runtime takes a smaller constant for 0 and leaves out its subtraction, though it is FP64."""


@dataclass(frozen=True, slots=True)
class Number:
    """x → (clip(x) or fill where missing - offset) / scale; beside it 1 where missing, if `indicator`."""

    name: str
    low: float
    high: float
    fill: float
    offset: float
    scale: float
    indicator: bool
    edges: tuple[float, ...] = ()
    """Piecewise-linear encoding: between each two neighbouring edges one column that rises from 0
    to 1, so that a network sees steps and bends. Y. Gorishniy, I. Rubachev, A. Babenko, *On
    Embeddings for Numerical Features in Tabular Deep Learning* (NeurIPS 2022).
    """


@dataclass(frozen=True, slots=True)
class Category:
    """text → bucket: 0 missing, 1 … K the known values, K + 1 unknown."""

    name: str
    values: tuple[str, ...]
    counts: tuple[int, ...]
    """Training rows per bucket, K + 2 of them."""
    dimension: int | None
    """Embedding width; None for one column per bucket."""

    @property
    def weights(self) -> Array:
        """Share of the training rows per bucket."""
        shares: Array = np.asarray(self.counts, dtype=np.float64) / sum(self.counts)
        return shares

    def table(self) -> Array:
        """One-hot rows per bucket, float32 [K + 2, K + 2]; a never filled bucket has the average row."""
        table = np.eye(len(self.counts))
        table[np.asarray(self.counts) == 0] = self.weights
        return table.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Text:
    """text → (1 + log count) x log-scaled rarity per word, scaled to length 1; beside it 1 where
    missing, if `indicator`.

    Sublinear tf-idf with cosine normalisation: Manning, Raghavan, Schütze, Introduction to
    Information Retrieval (2008), 6.4.
    """

    name: str
    words: tuple[str, ...]
    rows: tuple[int, ...]
    """Training rows that contain the word."""
    rarity: tuple[float, ...]
    indicator: bool


@dataclass(frozen=True, slots=True)
class Preprocessing:
    signature: ModelSignature
    numbers: tuple[Number, ...]
    strings: tuple[Category | Text, ...]
    """Text inputs in the signature's order."""

    @property
    def embedded(self) -> tuple[Category, ...]:
        return tuple(part for part in self.strings if isinstance(part, Category) and part.dimension)

    @property
    def texts(self) -> tuple[Text, ...]:
        return tuple(part for part in self.strings if isinstance(part, Text))


def fit(pipeline: Pipeline, signature: ModelSignature, rows: Rows, *, bins: int = 0) -> Preprocessing:
    """Fits on `rows`, the training split. `bins`: pieces of the piecewise-linear encoding of
    numbers (0: none).

    Raises Invalid, with the field's name, where a feature cannot be learned from.
    """
    features = pipeline.resolved_features()
    numbers = []
    for column, name in enumerate(signature.inputs.numbers):
        feature = features[name]
        assert isinstance(feature, NumberTreatment)
        numbers.append(_fit_number(name, feature, rows.numbers[:, column], bins))
    strings: list[Category | Text] = []
    for column, name in enumerate(signature.inputs.strings):
        match features[name]:
            case BagOfWords() as feature:
                strings.append(_fit_text(name, feature, rows.strings[:, column]))
            case Embedding() | OneHot() as feature:
                strings.append(_fit_category(name, feature, rows.strings[:, column]))
    return Preprocessing(signature, tuple(numbers), tuple(strings))


def bins(rows: int) -> int:
    """Pieces of each number's encoding: as many as the rows can carry. 0.909 → 0.919 AUROC of an
    mlp on census income [M].
    """
    return min(MAX_BINS, round(math.sqrt(rows) / 3))


def _always_missing(name: str, feature: Treatment, rows: int) -> Invalid:
    return Invalid(
        f"the field `{feature.source_field}` is missing in all {rows} training rows",
        where=f"features.{name}",
        remedy="Leave the feature out, or publish events that carry the field",
    )


def _fit_number(name: str, feature: NumberTreatment, column: Array, bins: int) -> Number:
    present = column[np.isfinite(column)]
    if not len(present):
        raise _always_missing(name, feature, len(column))
    bounds = clip_bounds(feature)
    low, high = (
        (np.quantile(present, at / 100) if percentile else at for percentile, at in bounds)
        if bounds
        else (-np.inf, np.inf)
    )
    clipped = np.clip(present, low, high)
    match feature.impute:
        case "mean":
            fill = float(clipped.mean())
        case "zero":
            fill = 0.0
        case _:
            fill = float(np.median(clipped))
    match feature.scale or "standard":
        case "standard":
            offset, scale = float(clipped.mean()), float(clipped.std())
        case "minmax":
            offset, scale = float(clipped.min()), float(clipped.max() - clipped.min())
        case _:
            offset, scale = 0.0, 1.0
    if not scale > max(abs(offset) * 1e-12, SMALLEST_SCALE):  # a constant
        scale = 1.0
    edges = _edges(clipped, bins) if bins and np.ptp(clipped) > SMALLEST_SCALE else np.empty(0)
    return Number(
        name=name,
        low=float(low),
        high=float(high),
        fill=fill,
        offset=offset,
        scale=scale,
        indicator=len(present) < len(column),
        edges=tuple(edges.tolist()) if len(edges) > 2 else (),
    )


def _edges(values: Array, bins: int) -> Array:
    """Half of the edges divide the rows evenly, half the distinct values: where most rows share one
    value, the others still have edges.
    """
    shares = np.linspace(0, 1, bins // 2 + 1)
    return np.unique(np.concatenate([np.quantile(values, shares), np.quantile(np.unique(values), shares)]))


def _fit_category(name: str, feature: Embedding | OneHot, column: Array) -> Category:
    seen = Counter(column.tolist())
    missing = seen.pop("", 0)
    if not seen:
        raise _always_missing(name, feature, len(column))
    frequent = sorted(
        (value for value, count in seen.items() if count >= (feature.min_count or 1)),
        key=lambda v: (-seen[v], v),
    )
    rare = sum(count for value, count in seen.items() if count < (feature.min_count or 1))
    dimension = (
        (feature.dimension or min(32, max(1, (len(frequent) + 1) // 2)))
        if isinstance(feature, Embedding)
        else None
    )
    return Category(name, tuple(frequent), (missing, *(seen[value] for value in frequent), rare), dimension)


def _fit_text(name: str, feature: BagOfWords, column: Array) -> Text:
    missing = int((column == "").sum())
    if missing == len(column):
        raise _always_missing(name, feature, len(column))
    total: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    for chunk in split_words(column):
        for words in chunk:
            total.update(words)
            rows.update(set(words))
    enough = feature.min_count or 1
    kept = sorted(
        (word for word, count in total.items() if count >= enough), key=lambda word: (-total[word], word)
    )
    kept = kept[: feature.vocabulary or 1000]
    if not kept:
        raise Invalid(
            f"no word of `{feature.source_field}` occurs {enough} times in the {len(column)} training rows",
            where=f"features.{name}.min_count",
            remedy="Lower min_count, or leave the feature out",
        )
    rarity = tuple(float(np.log((1 + len(column)) / (1 + rows[word])) + 1) for word in kept)
    return Text(name, tuple(kept), tuple(rows[word] for word in kept), rarity, missing > 0)
