"""Words of a text, by the graph's own tokeniser: the vocabulary is fitted with the very nodes that serve.

ONNX has no pattern splitting among its standard operators, so a text is lower-cased and then split
at one separator after the other, keeping a flat list of words and, beside it, the row of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np

from penstock.modelkit.graph import INT64, ML, STRING, Array, Graph, Runner

SEPARATORS = (" ", "\t", "\n", "\r", ",", ".", ";", ":", "!", "?", "(", ")", "[", "]", '"', "/")
# Words of one text that count: the rest is one unknown word. Bounds what one long text costs its
# neighbours in a batch.
MAX_WORDS = 4096
MAX_PIECES = 32  # into which one separator other than the space divides one word


def tokenise(graph: Graph, texts: str) -> tuple[str, str, str]:
    """Nodes for `texts` [N] → (words [T], their rows int64 [T], N + 1 as int64 [1]).

    Row N is an empty text that is always appended, because StringNormalizer fails on an empty list.
    """
    words, rows, count = lower(graph, texts)
    for separator in SEPARATORS:
        words, rows = split(graph, words, rows, separator, MAX_WORDS if separator == " " else MAX_PIECES)
    return words, rows, count


def lower(graph: Graph, texts: str) -> tuple[str, str, str]:
    """Nodes for `texts` [N] → (texts in lower case [N + 1], their rows, N + 1 as int64 [1])."""
    padded = graph.op("Concat", texts, graph.texts([""]), axis=0)
    count = graph.op("Shape", padded)
    words = graph.op("StringNormalizer", padded, case_change_action="LOWER", locale="C.UTF-8")
    return words, counted(graph, graph.op("Squeeze", count, graph.constant([0], np.int64))), count


def counted(graph: Graph, count: str) -> str:
    """Nodes for `count` (int64, no dimension) → 0, 1, … count - 1."""
    return graph.op("Range", graph.constant(0, np.int64), count, graph.constant(1, np.int64))


def split(
    graph: Graph, words: str, rows: str, separator: str | bytes, most: int, *, keep: bool = False
) -> tuple[str, str]:
    """Splits each word [T] into at most so many pieces, none of them empty, and gives each its row.
    `keep`: the separator stays, at the head of the piece that it stood before.
    """
    pieces = graph.op("StringSplit", words, outputs=2, delimiter=separator, maxsplit=most - 1)
    some = graph.op("LabelEncoder", pieces, domain=ML, keys_strings=[""], values_int64s=[0], default_int64=1)
    where = graph.op("NonZero", some)
    words = graph.op("GatherND", pieces, graph.op("Transpose", where, perm=[1, 0]))
    if keep:
        later = graph.op("Gather", where, graph.constant(1, np.int64), axis=0)
        heads = graph.texts([b"", separator])
        head = graph.op("Gather", heads, graph.op("Min", later, graph.constant(1, np.int64)))
        words = graph.op("StringConcat", head, words)
    return words, graph.op("Gather", rows, graph.op("Gather", where, graph.constant(0, np.int64), axis=0))


def count_words(graph: Graph, texts: str, vocabulary: tuple[str, ...]) -> str:
    """Nodes for `texts` [N] → how often each word of `vocabulary` occurs, float32 [N, len(vocabulary)]."""
    words, rows, count = tokenise(graph, texts)
    size = len(vocabulary)
    ids = graph.op(
        "LabelEncoder",
        words,
        domain=ML,
        keys_strings=list(vocabulary),
        values_int64s=list(range(size)),
        default_int64=size,
    )
    one = graph.constant([1], np.int64)
    at = graph.op("Concat", graph.op("Unsqueeze", rows, one), graph.op("Unsqueeze", ids, one), axis=1)
    ones = graph.op("Expand", graph.constant([1.0], np.float32), graph.op("Shape", ids))
    shape = graph.op("Concat", count, graph.constant([size + 1], np.int64), axis=0)
    counts = graph.op(
        "ScatterND", graph.op("Expand", graph.constant([0.0], np.float32), shape), at, ones, reduction="add"
    )
    return graph.op(
        "Slice",
        counts,
        graph.constant([0, 0], np.int64),
        graph.constant([-1, -1], np.int64),
        graph.constant([0, 1], np.int64),
    )


def split_words(texts: Array, run: Runner, chunk: int = 4096) -> Iterator[list[list[str]]]:
    """The words of each text (object [N] of str), chunk by chunk, as a `splitter` gives them."""
    for start in range(0, len(texts), chunk):
        part = texts[start : start + chunk]
        found = run(np.empty((0, 0)), part.reshape(-1, 1))
        split: list[list[str]] = [[] for _ in part]
        for word, row in zip(found["words"].tolist(), found["rows"].tolist(), strict=True):
            split[row].append(word)
        yield split


def splitter(read: Callable[[Graph, str], tuple[str, str, str]]) -> Runner:
    """The nodes of `read`, which gives as much as `tokenise`, as a graph of their own. To load it takes
    as long as to split hundreds of texts.
    """
    graph = Graph()
    column = graph.op("Reshape", graph.input("strings", STRING, ["N", 1]), graph.constant([-1], np.int64))
    words, rows, _ = read(graph, column)
    graph.output(words, "words", STRING, ["T"])
    graph.output(rows, "rows", INT64, ["T"])
    return Runner(graph.build("words"))


@cache
def tokeniser() -> Runner:
    return splitter(tokenise)
