"""The data behind the report's pictures. Aggregates; a group with a thin cell gets none, for it
would show single people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import starmap

import numpy as np
from pydantic import Field

from penstock.measures.groups import Grouping
from penstock.measures.performance import CALIBRATION_BINS, confidence, equal_mass_bins
from penstock.measures.scores import Floats, Scores
from penstock_ethics_audit.audit import Finding, Findings

HISTOGRAM_BINS = 20
ROWS_A_POINT = 10  # at least, of a calibration curve: a point of few rows shows single people
_GRID = np.linspace(0, 1, 101)


class Curve(Finding):
    """Points of one group; `""` is all rows."""

    group: str
    x: tuple[float, ...]
    y: tuple[float, ...]


class Histogram(Finding):
    group: str
    label: str  # the true class; for several classes `right` or `wrong`; for a regression empty
    edges: tuple[float, ...]
    shares: tuple[float, ...]


class Confusion(Finding):
    """Confusion matrix of all rows: a row for each label, a column for each decision, abstained last."""

    counts: tuple[tuple[int, ...], ...]


class Pictures(Finding):
    # ROC curves by grouping, `""` for all rows: x false positive rate, y true positive rate.
    # Binary only.
    roc: dict[str, tuple[Curve, ...]] = Field(default_factory=dict)
    # Calibration curves: x mean prediction, y mean outcome, a point for each bin.
    calibration: dict[str, tuple[Curve, ...]] = Field(default_factory=dict)
    # Probabilities of the positive class, confidence of the likeliest, or errors of a
    # regression.
    distributions: dict[str, tuple[Histogram, ...]] = Field(default_factory=dict)
    confusion: Confusion | None = None


def pictures(scores: Scores, groupings: Sequence[Grouping], findings: Findings) -> Pictures:
    """Draws the data of all rows, and of each group that is not thin."""
    parts = {"": [("", scores)]} | {
        found.by: [
            (group.group, scores.take(grouping.rows(index)))
            for index, group in enumerate(found.groups)
            if not group.thin
        ]
        for grouping, found in zip(groupings, findings.groupings, strict=True)
    }
    return Pictures(
        roc={by: tuple(starmap(_roc, some)) for by, some in parts.items() if scores.task == "binary"},
        calibration={by: tuple(starmap(_calibration, some)) for by, some in parts.items()},
        distributions={
            by: tuple(one for name, part in some for one in _histograms(name, part, scores))
            for by, some in parts.items()
        },
        confusion=_confusion(scores),
    )


def _roc(name: str, scores: Scores) -> Curve:
    """ROC curve on a grid of false positive rates, so that no threshold of a single row shows."""
    p, y = scores.said[:, 1], scores.labels
    order = np.argsort(-p, kind="stable")
    last = np.r_[p[order][1:] != p[order][:-1], True] if len(p) else np.zeros(0, dtype=bool)
    hits, alarms = np.cumsum(y[order])[last], np.cumsum(1 - y[order])[last]
    if not len(hits) or hits[-1] == 0 or alarms[-1] == 0:
        return Curve(group=name, x=(), y=())
    return _curve(name, _GRID, np.interp(_GRID, np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]]))


def _calibration(name: str, scores: Scores) -> Curve:
    said, seen = confidence(scores) if scores.classifies else (scores.said, scores.labels)
    most = max(1, min(CALIBRATION_BINS, len(said) // ROWS_A_POINT))
    bins = equal_mass_bins(said, most)
    rows = np.bincount(bins, minlength=most)
    x, y = (
        np.bincount(bins, weights=values, minlength=most)[rows > 0] / rows[rows > 0]
        for values in (said, seen)
    )
    return _curve(name, x, y)


def _histograms(name: str, scores: Scores, whole: Scores) -> Iterator[Histogram]:
    """Shares within each label, so that groups of different size compare; bins are the same for
    every group.
    """
    if scores.classifies:
        edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
        said, seen = confidence(scores)
        labels = scores.classes if scores.task == "binary" else ("wrong", "right")
        drawn = {label: said[seen == code] for code, label in enumerate(labels)}
    else:
        low, high = np.quantile(whole.said - whole.labels, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1)
        drawn = {"": np.clip(scores.said - scores.labels, edges[0], edges[-1])}
    for label, values in drawn.items():
        shares = np.histogram(values, bins=edges)[0] / max(len(values), 1)
        yield Histogram(group=name, label=label, edges=tuple(edges.tolist()), shares=tuple(shares.tolist()))


def _confusion(scores: Scores) -> Confusion | None:
    if scores.decisions is None:
        return None
    k = len(scores.classes)
    columns = np.where(scores.decisions < 0, k, scores.decisions)
    counts = np.bincount(scores.label_codes * (k + 1) + columns, minlength=k * (k + 1))
    return Confusion(counts=tuple(map(tuple, counts.reshape(k, k + 1).tolist())))


def _curve(name: str, x: Floats, y: Floats) -> Curve:
    return Curve(group=name, x=tuple(x.tolist()), y=tuple(y.tolist()))
