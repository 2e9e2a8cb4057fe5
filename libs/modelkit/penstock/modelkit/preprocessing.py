"""All that is learned about raw values before the network, fitted on the training split alone and
compiled into the graph.

Numbers: clip, then impute, then scale. Categories: known values in order of frequency, one bucket
for missing and one for unknown. Texts: weighted word counts. A bucket that the training split never
filled behaves like the average row, so that a first unknown value after deployment does not meet
untrained weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import (
    BagOfWords,
    Embedding,
    OneHot,
    Pipeline,
    Treatment,
)
from penstock.contracts.pipeline import (
    Number as NumberTreatment,
)
from penstock.contracts.rules import clip_bounds
from penstock.modelkit.graph import DOUBLE, FLOAT, INT64, ML, STRING, Array, Graph, Runner
from penstock.modelkit.rows import Rows
from penstock.modelkit.words import count_words, split_words
from penstock.packages.parts import ModelSignature

SCALED_LIMIT = 1e6
"""Scaled numbers stay within ± this, so that any finite input gives a finite output in FP32."""
CHUNK_CELLS = 16_000_000
"""Floats in one chunk of word counts while preparing."""
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
    """In the signature's order."""

    @property
    def embedded(self) -> tuple[Category, ...]:
        return tuple(part for part in self.strings if isinstance(part, Category) and part.dimension)

    @property
    def texts(self) -> tuple[Text, ...]:
        return tuple(part for part in self.strings if isinstance(part, Text))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the network takes, as the graph makes it."""

    dense: Array
    """float32 [N, d]."""
    buckets: Array
    """int64 [N, c]: one column per embedded category."""
    words: tuple[WordWeights, ...]
    """Per text."""

    def __len__(self) -> int:
        return len(self.dense)


@dataclass(frozen=True, slots=True)
class WordWeights:
    """A sparse float32 [N, width] matrix: row `i` has `weights[starts[i]:starts[i + 1]]` in the
    columns `columns[...]`.
    """

    starts: Array
    columns: Array
    weights: Array
    width: int


# -- fitting ---------------------------------------------------------------------------------------


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


# -- the graph -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Features:
    """Names of the graph's values that the network takes; as in `Prepared`, word weights dense [N, width]."""

    dense: str | None
    buckets: str | None
    words: tuple[str, ...]


def compile_into(graph: Graph, fitted: Preprocessing) -> Features:
    """Adds the inputs and all preprocessing nodes."""
    dense: list[str] = []
    buckets: list[str] = []
    words: list[str] = []
    if fitted.numbers:
        dense += _compile_numbers(
            graph, graph.input("numbers", DOUBLE, ["N", len(fitted.numbers)]), fitted.numbers
        )
    if fitted.strings:
        strings = graph.input("strings", STRING, ["N", len(fitted.strings)])
        for index, part in enumerate(fitted.strings):
            column = graph.columns(strings, [index])
            if isinstance(part, Category):
                bucket = graph.op(
                    "LabelEncoder",
                    column,
                    domain=ML,
                    keys_strings=["", *part.values],
                    values_int64s=list(range(len(part.values) + 1)),
                    default_int64=len(part.values) + 1,
                )
                if part.dimension:
                    buckets.append(bucket)
                else:
                    flat = graph.op("Reshape", bucket, graph.constant([-1], np.int64))
                    dense.append(graph.op("Gather", graph.constant(part.table(), np.float32), flat, axis=0))
            else:
                if part.indicator:
                    missing = graph.op(
                        "LabelEncoder",
                        column,
                        domain=ML,
                        keys_strings=[""],
                        values_int64s=[1],
                        default_int64=0,
                    )
                    dense.append(graph.op("Cast", missing, to=FLOAT))
                words.append(_compile_text(graph, column, part))
    return Features(_concat(graph, dense), _concat(graph, buckets), tuple(words))


def _concat(graph: Graph, parts: list[str]) -> str | None:
    return graph.op("Concat", *parts, axis=1) if len(parts) > 1 else (parts[0] if parts else None)


def _compile_numbers(graph: Graph, numbers: str, parts: tuple[Number, ...]) -> Iterator[str]:
    def row(values: list[float]) -> str:
        return graph.constant([values], np.float64)

    infinite = graph.op("IsInf", numbers)
    missing = graph.op("Or", graph.op("IsNaN", numbers), infinite)
    clipped = graph.op(
        "Min", graph.op("Max", numbers, row([part.low for part in parts])), row([part.high for part in parts])
    )
    filled = graph.op("Where", missing, row([part.fill for part in parts]), clipped)
    centred = graph.op("Sub", filled, row([part.offset for part in parts]))
    scaled = graph.op("Div", centred, row([part.scale for part in parts]))
    limit = graph.constant(SCALED_LIMIT, np.float64)
    kept = graph.op("Min", graph.op("Max", scaled, graph.op("Neg", limit)), limit)
    yield graph.op("Cast", kept, to=FLOAT)
    if indicated := [index for index, part in enumerate(parts) if part.indicator]:
        yield graph.op("Cast", graph.columns(missing, indicated), to=FLOAT)
    pieces = [
        (i, low, high)
        for i, part in enumerate(parts)
        for low, high in zip(part.edges, part.edges[1:], strict=False)
    ]
    if pieces:
        spread = graph.columns(filled, [index for index, _, _ in pieces])
        risen = graph.op("Sub", spread, row([low for _, low, _ in pieces]))
        share = graph.op("Div", risen, row([high - low for _, low, high in pieces]))
        within = graph.op(
            "Min", graph.op("Max", share, graph.constant(0.0, np.float64)), graph.constant(1.0, np.float64)
        )
        yield graph.op("Cast", within, to=FLOAT)


def _compile_text(graph: Graph, column: str, part: Text) -> str:
    flat = graph.op("Reshape", column, graph.constant([-1], np.int64))
    counts = count_words(graph, flat, part.words)
    one = graph.constant(1.0, np.float32)
    damped = graph.op("Add", graph.op("Log", graph.op("Max", counts, one)), graph.op("Min", counts, one))
    weighted = graph.op("Mul", damped, graph.constant([part.rarity], np.float32))
    squares = graph.op(
        "ReduceSum", graph.op("Mul", weighted, weighted), graph.constant([1], np.int64), keepdims=1
    )
    return graph.op(
        "Div", weighted, graph.op("Sqrt", graph.op("Max", squares, graph.constant(1e-12, np.float32)))
    )


def prepare(fitted: Preprocessing, rows: Rows) -> Prepared:
    """Runs the preprocessing nodes themselves in ONNX Runtime: what is trained on is what is served."""
    graph = Graph()
    features = compile_into(graph, fitted)
    if features.dense:
        graph.output(features.dense, "dense", FLOAT, ["N", "d"])
    if features.buckets:
        graph.output(features.buckets, "buckets", INT64, ["N", "c"])
    for index, words in enumerate(features.words):
        graph.output(words, f"words{index}", FLOAT, ["N", "w"])
    run = Runner(graph.build("preprocessing"))
    widest = max((len(text.words) for text in fitted.texts), default=0)
    chunk = max(64, CHUNK_CELLS // widest) if widest else max(1, len(rows))
    found = [
        run(rows.numbers[at : at + chunk], rows.strings[at : at + chunk])
        for at in range(0, max(1, len(rows)), chunk)
    ]
    return Prepared(
        dense=np.concatenate([part["dense"] for part in found])
        if features.dense
        else np.empty((len(rows), 0), np.float32),
        buckets=np.concatenate([part["buckets"] for part in found])
        if features.buckets
        else np.empty((len(rows), 0), np.int64),
        words=tuple(
            _sparse([part[f"words{index}"] for part in found]) for index in range(len(features.words))
        ),
    )


def _sparse(chunks: list[Array]) -> WordWeights:
    counts = np.concatenate([(chunk != 0).sum(axis=1) for chunk in chunks])
    return WordWeights(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        columns=np.concatenate([np.nonzero(chunk)[1] for chunk in chunks]).astype(np.int64),
        weights=np.concatenate([chunk[np.nonzero(chunk)] for chunk in chunks]).astype(np.float32),
        width=chunks[0].shape[1],
    )
