"""Features as values of the graph, from the raw inputs on. Each is added when a family first asks
for it, and the same nodes prepare the rows that it learns from: what is trained on is what is
served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from penstock.modelkit import sequences
from penstock.modelkit.graph import DOUBLE, FLOAT, INT64, ML, STRING, Array, Graph, Runner
from penstock.modelkit.preprocessing import Category, Number, Preprocessing, Text, TextSequence
from penstock.modelkit.rows import RowSource
from penstock.modelkit.words import count_words

# Scaled numbers stay within ± this, so that any finite input gives a finite output in FP32.
SCALED_LIMIT = 1e6
PIECE = 1 << 18  # rows that a model is asked of at once
CHUNK_CELLS = 500_000  # of the widest matrix, while rows are transformed
# Rows of a chunk are a multiple: ONNX Runtime adds up a row's numbers in an order that depends on where in
# a vector register the row begins. So they give the bits that all rows at once give.
ALIGNED = 16


class Value(NamedTuple):
    """A matrix [N, width] in the graph: DOUBLE, FLOAT, INT64 or STRING. One that is `sparse`, mostly
    zeros, is kept as WordWeights in memory, or, of INT64, as WordNumbers.
    """

    name: str
    kind: int
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class WordWeights:
    """A sparse float32 [N, width] matrix: row `i` has `weights[starts[i]:starts[i + 1]]` in the
    columns `columns[...]`.
    """

    starts: Array
    columns: Array
    weights: Array
    width: int


@dataclass(frozen=True, slots=True)
class WordNumbers:
    """Words in their order: row `i` has `numbers[starts[i]:starts[i + 1]]`, int64."""

    starts: Array
    numbers: Array


# Inputs of a family, by the names that it gave: [N, width] each.
Inputs = Mapping[str, Array | WordWeights | WordNumbers]
Wanted = Callable[["Features"], dict[str, Value]]
Transform = Callable[[Preprocessing, RowSource, Wanted], Inputs]


class Features:
    """Features of a graph, whose inputs, `numbers` and `strings`, it adds where they are not there."""

    def __init__(self, graph: Graph, fitted: Preprocessing) -> None:
        self.graph = graph
        self.fitted = fitted
        if fitted.numbers:
            self._numbers = graph.input("numbers", DOUBLE, ["N", len(fitted.numbers)])
        if fitted.strings:
            self._strings = graph.input("strings", STRING, ["N", len(fitted.strings)])

    # -- what families take ------------------------------------------------------------------------

    def untreated(self) -> dict[str, Value]:
        """The inputs as they came, as far as there are any: `raw` FP64 [N, n], `texts` STRING [N, m]."""
        found = {}
        if self.fitted.numbers:
            found["raw"] = Value(self._numbers, DOUBLE)
        if self.fitted.strings:
            found["texts"] = Value(self._strings, STRING)
        return found

    def numbers(self) -> Value | None:
        """FP64 [N, n] as they came, missing as NaN. Where the training split had none missing, there
        is no telling what that would mean: the imputed value.
        """
        if not self.fitted.numbers:
            return None
        absent = [np.nan if part.indicator else part.fill for part in self.fitted.numbers]
        return Value(self.graph.op("Where", self._missing(), self._row(absent), self._numbers), DOUBLE)

    def categories(self) -> Value | None:
        """INT64 [N, c]: the bucket of each category and boolean; 0 is missing, K + 1 unknown."""
        buckets = [
            self._bucket(index, part)
            for index, part in enumerate(self.fitted.strings)
            if isinstance(part, Category)
        ]
        return self._beside(buckets, INT64)

    def tensors(self, *, pieces: bool, one_hot: bool = True) -> dict[str, Value]:
        """Inputs of a network, as far as there are any: `dense` FP32 [N, d], scaled numbers, with
        `pieces` in pieces too, absences and one-hot columns; `buckets` INT64 [N, c] of embedded
        categories, of all without `one_hot`; `words0`, … FP32 [N, words] of each text as weighted
        counts; `sequence0`, … INT64 [N, longest] of each as words in their order.
        """
        dense = self._dense_numbers(pieces) if self.fitted.numbers else []
        buckets, words, ordered = [], [], []
        for index, part in enumerate(self.fitted.strings):
            if isinstance(part, TextSequence):
                texts = self._flat(index)
                numbers = sequences.numbered(self.graph, texts, part.words, part.reading)
                ordered.append(Value(numbers, INT64, sparse=True))
            elif isinstance(part, Text):
                if part.indicator:
                    dense.append(self.graph.op("Cast", self._encoded(index, {"": 1}, 0), to=FLOAT))
                words.append(Value(self._weighed(index, part), FLOAT, sparse=True))
            elif part.dimension or not one_hot:
                buckets.append(self._bucket(index, part))
            else:
                flat = self.graph.op(
                    "Reshape", self._bucket(index, part), self.graph.constant([-1], np.int64)
                )
                table = self.graph.constant(part.table(), np.float32)
                dense.append(self.graph.op("Gather", table, flat, axis=0))
        found = {
            "dense": self._beside(dense, FLOAT),
            "buckets": self._beside(buckets, INT64),
            **{f"words{index}": value for index, value in enumerate(words)},
            **{f"sequence{index}": value for index, value in enumerate(ordered)},
        }
        return {name: value for name, value in found.items() if value}

    # -- nodes; the graph shares equal ones --------------------------------------------------------

    def _beside(self, parts: list[str], kind: int) -> Value | None:
        if not parts:
            return None
        return Value(self.graph.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0], kind)

    def _row(self, values: list[float]) -> str:
        return self.graph.constant([values], np.float64)

    def _missing(self) -> str:
        infinite = self.graph.op("IsInf", self._numbers)
        return self.graph.op("Or", self.graph.op("IsNaN", self._numbers), infinite)

    def _dense_numbers(self, pieces: bool) -> list[str]:
        graph, parts, missing = self.graph, self.fitted.numbers, self._missing()
        raised = graph.op("Max", self._numbers, self._row([part.low for part in parts]))
        clipped = graph.op("Min", raised, self._row([part.high for part in parts]))
        filled = graph.op("Where", missing, self._row([part.fill for part in parts]), clipped)
        centred = graph.op("Sub", filled, self._row([part.offset for part in parts]))
        scaled = graph.op("Div", centred, self._row([part.scale for part in parts]))
        limit = graph.constant(SCALED_LIMIT, np.float64)
        kept = graph.op("Min", graph.op("Max", scaled, graph.op("Neg", limit)), limit)
        found = [graph.op("Cast", kept, to=FLOAT)]
        if indicated := [index for index, part in enumerate(parts) if part.indicator]:
            found.append(graph.op("Cast", graph.columns(missing, indicated), to=FLOAT))
        steps = [
            (index, low, high)
            for index, part in enumerate(parts)
            for low, high in zip(part.edges, part.edges[1:], strict=False)
        ]
        if pieces and steps:
            spread = graph.columns(filled, [index for index, _, _ in steps])
            risen = graph.op("Sub", spread, self._row([low for _, low, _ in steps]))
            share = graph.op("Div", risen, self._row([high - low for _, low, high in steps]))
            none, whole = graph.constant(0.0, np.float64), graph.constant(1.0, np.float64)
            found.append(graph.op("Cast", graph.op("Min", graph.op("Max", share, none), whole), to=FLOAT))
        return found

    def _flat(self, index: int) -> str:
        column = self.graph.columns(self._strings, [index])
        return self.graph.op("Reshape", column, self.graph.constant([-1], np.int64))

    def _encoded(self, index: int, values: Mapping[str, int], default: int) -> str:
        return self.graph.op(
            "LabelEncoder",
            self.graph.columns(self._strings, [index]),
            domain=ML,
            keys_strings=list(values),
            values_int64s=list(values.values()),
            default_int64=default,
        )

    def _bucket(self, index: int, part: Category) -> str:
        known = ("", *part.values)
        return self._encoded(index, {value: bucket for bucket, value in enumerate(known)}, len(known))

    def _weighed(self, index: int, part: Text) -> str:
        graph = self.graph
        counts = count_words(graph, self._flat(index), part.words)
        one = graph.constant(1.0, np.float32)
        damped = graph.op("Add", graph.op("Log", graph.op("Max", counts, one)), graph.op("Min", counts, one))
        weighted = graph.op("Mul", damped, graph.constant([part.rarity], np.float32))
        squares = graph.op(
            "ReduceSum", graph.op("Mul", weighted, weighted), graph.constant([1], np.int64), keepdims=1
        )
        length = graph.op("Sqrt", graph.op("Max", squares, graph.constant(1e-12, np.float32)))
        return graph.op("Div", weighted, length)


def piece_columns(numbers: Sequence[Number]) -> tuple[range, ...]:
    """Pieces of each number among the columns of `dense`, where they are taken."""
    counts = [part.pieces for part in numbers]
    first = len(numbers) + sum(part.indicator for part in numbers)
    ends = accumulate(counts, initial=first)
    return tuple(range(end, end + count) for end, count in zip(ends, counts, strict=False))


def transform(fitted: Preprocessing, rows: RowSource, wanted: Wanted) -> Inputs:
    """Computes a family's inputs of the rows, by the very nodes that serve, in ONNX Runtime."""
    found = list(chunks(fitted, rows, wanted))
    return {name: _joined([chunk[name] for chunk in found]) for name in found[0]}


def chunks(fitted: Preprocessing, rows: RowSource, wanted: Wanted) -> Iterator[Inputs]:
    """`transform`, of so many rows at a time that what lies between the nodes stays small."""
    graph = Graph()
    values = wanted(Features(graph, fitted))
    for name, value in values.items():
        graph.output(value.name, name, value.kind, ["N", f"width of {name}"])
    run = Runner(graph.build("preprocessing"))
    for chunk in rows.chunks(_chunk(fitted)):
        found = run(chunk.numbers, chunk.strings)
        yield {name: _kept(value, found[name]) for name, value in values.items()}


def pieces(inputs: Inputs, rows: int) -> Iterator[tuple[slice, Inputs]]:
    """Inputs of so many rows at a time, and which rows they are; nothing is copied."""
    for at in range(0, max(1, rows), PIECE):
        piece = slice(at, min(at + PIECE, rows))
        yield piece, {name: _between(value, piece) for name, value in inputs.items()}


def _between(value: Array | WordWeights | WordNumbers, rows: slice) -> Array | WordWeights | WordNumbers:
    if isinstance(value, np.ndarray):
        return value[rows]
    return replace(value, starts=value.starts[rows.start : rows.stop + 1])


def _chunk(fitted: Preprocessing) -> int:
    """Rows of a chunk, by the widest matrix."""
    pieces = sum(part.pieces + 2 for part in fitted.numbers)
    words = [len(part.words) for part in fitted.strings if isinstance(part, Text)]
    most = CHUNK_CELLS // max(pieces, len(fitted.strings), *words, 1)
    size = max(64, most // ALIGNED * ALIGNED)
    if any(isinstance(part, TextSequence) for part in fitted.strings):
        return min(size, sequences.CHUNK)
    return size


def _kept(value: Value, matrix: Array) -> Array | WordWeights | WordNumbers:
    if not value.sparse:
        return matrix
    present = np.nonzero(matrix)
    starts = np.concatenate([[0], np.cumsum((matrix != 0).sum(axis=1))]).astype(np.int64)
    if value.kind == INT64:
        return WordNumbers(starts, matrix[present])
    return WordWeights(starts, present[1].astype(np.int64), matrix[present], width=matrix.shape[1])


def _joined(parts: Sequence[Any]) -> Array | WordWeights | WordNumbers:
    """`_kept` of all rows, from that of chunks."""
    first: Array | WordWeights | WordNumbers = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    before = accumulate((int(part.starts[-1]) for part in parts), initial=0)
    starts = [part.starts[1:] + start for part, start in zip(parts, before, strict=False)]
    whole = np.concatenate([[0], *starts]).astype(np.int64)
    if isinstance(first, WordNumbers):
        return WordNumbers(whole, np.concatenate([part.numbers for part in parts]))
    columns, weights = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("columns", "weights")
    )
    return WordWeights(whole, columns, weights, first.width)
