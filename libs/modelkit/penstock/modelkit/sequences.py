"""A text as its words in their order, each a number of a vocabulary, by nodes of the graph.

Words are those of `words`. Han and kana are written without spaces: where the training split has
any of U+3000 to U+9FFF or U+FF00 to U+FF3F, each such character begins a word, so that among its
like it is one. No standard operator cuts a text into characters, but a delimiter of StringSplit is
bytes: in UTF-8 all these characters begin with one of eight heads, and no other character has them
at any place.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from penstock.modelkit.graph import ML, Array, Graph, Runner
from penstock.modelkit.words import (
    MAX_PIECES,
    MAX_WORDS,
    SEPARATORS,
    counted,
    lower,
    split,
    split_words,
    splitter,
)

HEADS = (b"\xef\xbc", b"\xe3", b"\xe4", b"\xe5", b"\xe6", b"\xe7", b"\xe8", b"\xe9")
FULL_WIDTH = ("\u3000", "。", "、", "，", "！", "？", "：", "；", "（", "）", "「", "」")
MAX_CHARACTERS = 256  # of one head, that are cut out of one stretch between separators
_CHARACTER = re.compile("[\u3000-\u9fff\uff00-\uff3f]")


class Reading(NamedTuple):
    """Words of a text that are read, and whether `HEADS` begin words."""

    words: int
    characters: bool


def has_characters(texts: Array) -> bool:
    """Tells whether any text (object [N] of str) has a character that `HEADS` begin."""
    return any(map(_CHARACTER.search, texts))


def read(graph: Graph, texts: str, reading: Reading) -> tuple[str, str, str]:
    """Nodes for `texts` [N] → (their first words [T], their rows int64 [T], N + 1 as int64 [1])."""
    words, rows, count = lower(graph, texts)
    separators = (*SEPARATORS, *FULL_WIDTH) if reading.characters else SEPARATORS
    for separator in separators:
        words, rows = split(graph, words, rows, separator, MAX_WORDS if separator == " " else MAX_PIECES)
        if separator == " ":  # so that a text of a million words is one of a few from here on
            words, rows = _first(graph, words, rows, count, reading.words)
    for head in HEADS if reading.characters else ():
        words, rows = split(graph, words, rows, head, MAX_CHARACTERS, keep=True)
    return *_first(graph, words, rows, count, reading.words), count


def read_texts(texts: Array, reading: Reading) -> list[list[str]]:
    """The words of each text (object [N] of str), as the graph reads them."""
    return [words for chunk in split_words(texts, _reader(reading), CHUNK) for words in chunk]


@lru_cache(maxsize=8)
def _reader(reading: Reading) -> Runner:
    return splitter(partial(read, reading=reading))


CHUNK = 256  # texts at once


def numbered(graph: Graph, texts: str, vocabulary: tuple[str, ...], reading: Reading) -> str:
    """Nodes for `texts` [N] → int64 [N, longest], the number of each word in its order: from 1 on
    those of the vocabulary, then one for all others; 0 where a text has ended.
    """
    words, rows, count = read(graph, texts, reading)
    numbers = graph.op(
        "LabelEncoder",
        words,
        domain=ML,
        keys_strings=list(vocabulary),
        values_int64s=list(range(1, len(vocabulary) + 1)),
        default_int64=len(vocabulary) + 1,
    )
    one = graph.constant([1], np.int64)
    places, counts = _places(graph, rows, count)
    longest = graph.op("Max", graph.op("ReduceMax", counts, keepdims=1), one)
    at = graph.op("Concat", graph.op("Unsqueeze", rows, one), graph.op("Unsqueeze", places, one), axis=1)
    empty = graph.op("Expand", graph.constant([0], np.int64), graph.op("Concat", count, longest, axis=0))
    filled = graph.op("ScatterND", empty, at, numbers)
    return graph.op(
        "Slice", filled, graph.constant([0], np.int64), graph.constant([-1], np.int64)
    )  # without the row of `lower`


def _first(graph: Graph, words: str, rows: str, count: str, most: int) -> tuple[str, str]:
    """The first `most` words of each row."""
    kept = graph.op("Less", _places(graph, rows, count)[0], graph.constant(most, np.int64))
    return graph.op("Compress", words, kept, axis=0), graph.op("Compress", rows, kept, axis=0)


def _places(graph: Graph, rows: str, count: str) -> tuple[str, str]:
    """The place of each word in its row, from 0, int64 [T], and the words of each row [N + 1].
    `rows` never falls.
    """
    one = graph.constant([1], np.int64)
    none = graph.op("Expand", graph.constant([0], np.int64), count)
    ones = graph.op("Expand", one, graph.op("Shape", rows))
    counts = graph.op("ScatterND", none, graph.op("Unsqueeze", rows, one), ones, reduction="add")
    starts = graph.op("CumSum", counts, graph.constant(0, np.int64), exclusive=1)
    index = counted(graph, graph.op("Size", rows))
    return graph.op("Sub", index, graph.op("Gather", starts, rows)), counts
