"""Permutation importance: by how much a model's loss rises on audit rows when the values of one
feature go to other rows. It asks any model alike, also one of which nothing else is known.

L. Breiman, *Random Forests* (2001), section 10.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penstock.contracts.errors import Invalid
from penstock.contracts.events import Interval
from penstock.measures.intervals import Bootstrap
from penstock.measures.scores import Floats, Scores
from penstock.packages.parts import ModelSignature
from penstock_ethics_audit.audit import Finding
from penstock_ethics_audit.graphs import Graph
from penstock_ethics_audit.split import Split, score

MAX_ROWS = 1_000
MAX_FEATURES = 60
RESAMPLES = 500
_DRAW = 0
_LEAST = 1e-7  # probabilities are FP32


class Importance(Finding):
    rows: int  # audit rows that it was measured on
    loss: str  # what rises: `log loss` or `squared error`
    features: dict[str, Interval | None]  # rise of its mean; None where the model gave no number


def importance(
    split: Split, graph: Graph, signature: ModelSignature, seed: int, confidence: float
) -> Importance | None:
    """Measures each feature on at most MAX_ROWS rows. Rows and their orders are drawn alike in each audit,
    so that versions are compared on the same; intervals are drawn by `seed`. None with more than
    MAX_FEATURES features. Blocks for a pass over the rows a feature.
    """
    names = (*signature.inputs.numbers, *signature.inputs.strings)
    if len(names) > MAX_FEATURES:
        return None
    random = np.random.default_rng(_DRAW)
    rows = np.sort(random.permutation(len(split))[:MAX_ROWS])
    some = split.take(rows)
    scores = score(some, graph, signature)
    before = _losses(scores)
    rises: dict[str, Floats | None] = {}
    for index, name in enumerate(names):
        moved = _moved(some, index, random.permutation(len(some)))
        try:
            rises[name] = _losses(score(moved, graph, signature)) - before
        except Invalid:  # a mixture of values that no row had, and no number for it
            rises[name] = None
    bootstrap = Bootstrap(scores.units, RESAMPLES, confidence, seed)
    measured = bootstrap.measured(
        lambda weights: {
            name: weights @ rise / weights.sum(axis=1) for name, rise in rises.items() if rise is not None
        },
    )
    loss = "log loss" if scores.classifies else "squared error"
    return Importance(rows=len(some), loss=loss, features={name: measured.get(name) for name in names})


def _moved(split: Split, column: int, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Split:
    """The split with one column's values in another order: numbers first, then strings."""
    numbers, strings = split.numbers.copy(), split.strings.copy()
    side, index = (numbers, column) if column < numbers.shape[1] else (strings, column - numbers.shape[1])
    side[:, index] = side[order, index]
    return replace(split, numbers=numbers, strings=strings)


def _losses(scores: Scores) -> Floats:
    if not scores.classifies:
        return np.square(scores.said - scores.labels)
    right = scores.said[np.arange(len(scores)), scores.label_codes]
    losses: Floats = -np.log(np.clip(right, _LEAST, 1.0))
    return losses
