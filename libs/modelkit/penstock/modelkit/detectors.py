"""Simple detectors of anomalies, fitted on normal rows, that a family of detectors is held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from penstock.modelkit.graph import Array

TREES, SAMPLE = 100, 256  # of an isolation forest, as in its paper

Detector = Callable[[Array], Array]
"""Columns float64 [N, d] to scores [N]; the higher, the less a row is like those it was fitted on."""


def mahalanobis(normal: Array) -> Detector:
    """The squared distance from the mean, in units of the covariance (P. C. Mahalanobis 1936). Columns
    that others determine are left out by the pseudo-inverse.
    """
    mean = normal.mean(axis=0)
    inverse = np.linalg.pinv(np.cov(normal, rowvar=False).reshape(normal.shape[1], -1), hermitian=True)

    def score(rows: Array) -> Array:
        away = rows - mean
        found: Array = np.einsum("nd,de,ne->n", away, inverse, away)
        return found

    return score


class _Split(NamedTuple):
    column: int
    threshold: float
    below: _Split | float  # depth of a leaf
    above: _Split | float


def isolation_forest(normal: Array, seed: int) -> Detector:
    """Random splits isolate an anomaly early (F. T. Liu, K. M. Ting, Z.-H. Zhou, *Isolation Forest*,
    ICDM 2008).
    """
    random = np.random.default_rng(seed)
    size = min(SAMPLE, len(normal))
    deepest = math.ceil(math.log2(max(size, 2)))
    trees = [
        _grown(normal[random.choice(len(normal), size, replace=False)], 0, deepest, random)
        for _ in range(TREES)
    ]

    def score(rows: Array) -> Array:
        depth = np.zeros(len(rows))
        for tree in trees:
            _walk(tree, rows, np.arange(len(rows)), depth)
        found: Array = 2 ** (-depth / TREES / max(_average_path(size), 1e-9))
        return found

    return score


def _grown(rows: Array, depth: int, deepest: int, random: np.random.Generator) -> _Split | float:
    low, high = rows.min(axis=0), rows.max(axis=0)
    varying = np.flatnonzero(low < high)
    if depth == deepest or len(rows) < 2 or not len(varying):
        return depth + _average_path(len(rows))
    column = int(random.choice(varying))
    threshold = float(random.uniform(low[column], high[column]))
    below = rows[:, column] <= threshold
    return _Split(
        column,
        threshold,
        _grown(rows[below], depth + 1, deepest, random),
        _grown(rows[~below], depth + 1, deepest, random),
    )


def _walk(tree: _Split | float, rows: Array, which: Array, depth: Array) -> None:
    """Adds to each row's depth that of the leaf it falls into."""
    if not isinstance(tree, _Split):
        depth[which] += tree
    elif len(which):
        below = rows[which, tree.column] <= tree.threshold
        _walk(tree.below, rows, which[below], depth)
        _walk(tree.above, rows, which[~below], depth)


def _average_path(rows: int) -> float:
    """Mean depth of an unsuccessful search in a binary search tree of so many rows."""
    if rows < 2:
        return 0.0
    return 2 * (math.log(rows - 1) + 0.5772156649) - 2 * (rows - 1) / rows if rows > 2 else 1.0
