"""The data behind the report's pictures. Aggregates; a group with a thin cell gets none, for it
would show single people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from penstock.measures.performance import CALIBRATION_BINS, confidence, equal_mass_bins
from penstock.measures.scores import Floats, Scores
from penstock_ethics_audit.audit import Finding, Findings, GroupingFindings
from penstock_ethics_audit.groups import Grouping

HISTOGRAM_BINS = 20
_GRID = np.linspace(0, 1, 101)


class Curve(Finding):
    """Points of one group; `""` is all rows."""

    group: str
    x: tuple[float, ...]
    y: tuple[float, ...]


class Histogram(Finding):
    group: str
    label: str
    """The true class; for several classes `right` or `wrong`; for a regression empty."""
    edges: tuple[float, ...]
    shares: tuple[float, ...]


class Confusion(Finding):
    """Confusion matrix of all rows: a row for each label, a column for each decision, abstained last."""

    counts: tuple[tuple[int, ...], ...]


class Pictures(Finding):
    roc: dict[str, tuple[Curve, ...]] = Field(default_factory=dict)
    """ROC curves by grouping, `""` for all rows: x false positive rate, y true positive rate. Binary
    only.
    """
    calibration: dict[str, tuple[Curve, ...]] = Field(default_factory=dict)
    """Calibration curves: x mean prediction, y mean outcome, a point for each bin."""
    distributions: dict[str, tuple[Histogram, ...]] = Field(default_factory=dict)
    """Probabilities of the positive class, confidence of the likeliest, or errors of a regression."""
    confusion: Confusion | None = None


def pictures(scores: Scores, groupings: Sequence[Grouping], findings: Findings) -> Pictures:
    roc, calibration, distributions = {}, {}, {}
    divided = {
        found.by: list(_parts(scores, grouping, found))
        for grouping, found in zip(groupings, findings.groupings, strict=True)
    }
    for by, parts in {"": [("", scores)], **divided}.items():
        if scores.task == "binary":
            roc[by] = tuple(_roc(name, part) for name, part in parts)
        calibration[by] = tuple(_calibration(name, part) for name, part in parts)
        distributions[by] = tuple(
            histogram for name, part in parts for histogram in _histograms(name, part, scores)
        )
    return Pictures(
        roc=roc, calibration=calibration, distributions=distributions, confusion=_confusion(scores)
    )


def _parts(scores: Scores, grouping: Grouping, found: GroupingFindings) -> Iterator[tuple[str, Scores]]:
    for index, group in enumerate(found.groups):
        if not group.thin:
            yield group.group, scores.take(grouping.rows(index))


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
    bins = equal_mass_bins(said, CALIBRATION_BINS)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    there = rows > 0
    mean = [
        np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)[there] / rows[there]
        for values in (said, seen)
    ]
    return _curve(name, mean[0], mean[1])


def _histograms(name: str, scores: Scores, whole: Scores) -> Iterator[Histogram]:
    """Shares within each label, so that groups of different size compare; bins are the same for
    every group.
    """
    if not scores.classifies:
        low, high = np.quantile(whole.said - whole.labels, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1)
        yield _histogram(name, "", np.clip(scores.said - scores.labels, edges[0], edges[-1]), edges)
        return
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    said, seen = confidence(scores)
    for label, of in zip(
        scores.classes if scores.task == "binary" else ("wrong", "right"), (0, 1), strict=True
    ):
        yield _histogram(name, label, said[seen == of], edges)


def _histogram(name: str, label: str, values: Floats, edges: Floats) -> Histogram:
    counts, _ = np.histogram(values, bins=edges)
    return Histogram(
        group=name,
        label=label,
        edges=tuple(edges.tolist()),
        shares=tuple((counts / max(len(values), 1)).tolist()),
    )


def _confusion(scores: Scores) -> Confusion | None:
    if scores.decisions is None:
        return None
    k = len(scores.classes)
    columns = np.where(scores.decisions < 0, k, scores.decisions)
    counts = np.bincount(scores.labels.astype(np.int64) * (k + 1) + columns, minlength=k * (k + 1)).reshape(
        k, k + 1
    )
    return Confusion(counts=tuple(map(tuple, counts.tolist())))


def _curve(name: str, x: Floats, y: Floats) -> Curve:
    return Curve(group=name, x=tuple(x.tolist()), y=tuple(y.tolist()))
