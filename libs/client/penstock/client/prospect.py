"""Prospect of an audit, from the rows at hand and before a model is trained: results of a perfectly
fair model at each gate between groups, by chance alone, and what passes a gate of quality. Needs the
`init` extra.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from penstock.client.checks import is_of, stated
from penstock.client.declared import Row, text_of
from penstock.client.guess.evidence import error_of_audit
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Gate, Pipeline, Split
from penstock.measures.groups import asked_cells, compare_not_stated, divide
from penstock.measures.parity import MOST_PASS, fair_bounds, fair_rates, halfway, rows_needed, shared
from penstock.measures.scores import Codes

_SEED = 7  # the same rows give the same figures
_FEWEST = 5  # rows of a label from which its measure is about normal


@dataclass(frozen=True)
class Outlook:
    """A gate, before there is a model."""

    gate: Gate
    fair: float | None = None
    """Bound away from parity that half of the audits of a fair model show; None where it is unknown."""
    needs: int | None = None
    """Labelled rows like these with which MOST_PASS of fair models pass; None where that is unknown."""
    reach: float | None = None
    """True value of models of which MOST_PASS pass a gate of quality; None where it is unknown."""
    why: str = ""
    """Reason why it is unknown, or inconclusive on these rows."""


@dataclass(frozen=True)
class Prospect:
    rows: int
    labelled: int
    audited: int
    """Labelled rows that the audit is given, about."""
    gates: tuple[Outlook, ...]


@dataclass(frozen=True)
class _Labelled:
    """Labels of the rows that have one, and the groups' values in the same order."""

    rows: int
    labels: list[str]
    groups: dict[str, list[Any]]


def prospect(pipeline: Pipeline, source: str, rows: Iterable[Row | bytes]) -> Prospect:
    """Reads all rows, as `files.rows` gives them for `source`; a second or two for each gate. Raises
    Invalid where a gate's values are no groups.
    """
    found = _labelled(pipeline, source, rows)
    parts = (pipeline.split or Split(by=pipeline.entity)).parts
    share = parts.audit / (parts.train + parts.validation + parts.audit)
    audited = round(len(found.labels) * share)
    gates = tuple(
        _outlook(pipeline, gate, found, share) if gate.by else _of_quality(pipeline, gate, found, audited)
        for gate in pipeline.audit.gates
        if gate.by or (gate.metric in ("auroc", "accuracy") and gate.judge in (None, "lower_bound"))
    )
    return Prospect(found.rows, len(found.labels), audited, gates)


def _labelled(pipeline: Pipeline, source: str, rows: Iterable[Row | bytes]) -> _Labelled:
    held, _, target = pipeline.target.source_field.partition(".")
    declared, count, labels = pipeline.sources[source], 0, []
    asked = {gate.by for gate in pipeline.audit.gates if gate.by}
    groups: dict[str, list[Any]] = {
        by: [] for by in asked if source == held and pipeline.reference(by) == f"{source}.{by}"
    }
    for row in rows:
        count += 1
        if isinstance(row, bytes) or (label := stated(row, target, declared)) is None:
            continue
        labels.append(text_of(label))
        for by, values in groups.items():
            value = stated(row, by, declared)
            values.append(value if is_of(declared.fields[by], value) else None)
    return _Labelled(count, labels, groups)


def _outlook(pipeline: Pipeline, gate: Gate, found: _Labelled, share: float) -> Outlook:
    by, spec = gate.by or "", pipeline.audit.groups[gate.by or ""]
    if by not in found.groups:
        return Outlook(gate, why=f"the file holds not both `{by}` and the labels")
    if not found.labels:
        return Outlook(gate, why="no row has a label")
    classes, codes = _coded(pipeline, found.labels)
    grouping = divide(by, found.groups[by], spec.bins, spec.name)
    grouping = compare_not_stated(grouping, codes, len(classes), math.ceil(spec.min_rows / share))
    if len(grouping.groups) < 2:
        return Outlook(gate, why=f"there are not two groups of {by} to compare")
    cells = np.ceil(grouping.cells(codes, len(classes)) * share).astype(np.int64)
    thinnest, cell = _thinnest(gate.metric, grouping.groups, classes, cells)
    why = f"{cell} has {thinnest} audit rows, {spec.min_rows} are needed" if thinnest < spec.min_rows else ""
    of_interest = range(1, 2) if len(classes) == 2 else range(len(classes))
    drawn = fair_rates(shared(cells, of_interest), halfway(cells, of_interest), _SEED)
    bounds = fair_bounds(gate.metric, drawn, pipeline.audit.confidence) if drawn is not None else None
    if bounds is None:
        return Outlook(gate, why=why or "there are too many groups and classes to tell")
    usual, needs = float(np.median(bounds)), None
    if gate.bound == "at_most" and gate.limit > 0 and thinnest:
        mostly, count = float(np.quantile(bounds, MOST_PASS)), len(found.labels)
        needs = max(rows_needed(count, mostly, gate.limit), math.ceil(count * spec.min_rows / thinnest))
    return Outlook(gate, usual, needs, why=why)


def _of_quality(pipeline: Pipeline, gate: Gate, found: _Labelled, audited: int) -> Outlook:
    """Estimates by the measure's standard error on the audit's rows, as normal."""
    if not found.labels:
        return Outlook(gate, why="no row has a label")
    classes, codes = _coded(pipeline, found.labels)
    task: Task = "binary" if gate.metric == "auroc" else "multiclass"
    rarest = np.bincount(codes, minlength=len(classes)).min() * audited / len(codes)
    if task == "binary" and rarest < _FEWEST:
        return Outlook(gate, why=f"some label has {rarest:.0f} audit rows, too few to tell")
    if audited < _FEWEST:
        return Outlook(gate, why=f"there are {audited} audit rows, too few to tell")
    normal = NormalDist()
    errors = normal.inv_cdf((1 + pipeline.audit.confidence) / 2) + normal.inv_cdf(MOST_PASS)
    for value in np.arange(max(gate.limit, 0.5), 1, 0.005).tolist():
        if value - errors * error_of_audit(value, 0.0, codes, audited, task) >= gate.limit:
            return Outlook(gate, reach=value)
    return Outlook(gate, why=f"hardly any model can show {gate.limit:g} on so few rows")


def _coded(pipeline: Pipeline, labels: list[str]) -> tuple[tuple[str, ...], Codes]:
    """Classes, of a binary target the positive one last, and the index of each label."""
    if pipeline.target.type == "binary":
        positive = text_of(True if pipeline.target.positive is None else pipeline.target.positive)
        codes = np.array([int(label == positive) for label in labels], np.int64)
        return (f"not {positive}", positive), codes
    classes, indices = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return tuple(classes.tolist()), indices.astype(np.int64)


def _thinnest(
    metric: str, groups: tuple[str, ...], classes: tuple[str, ...], cells: Codes
) -> tuple[int, str]:
    """Rows of the cell with the fewest, among those that the measure asks for, and its name."""
    return min(
        (rows, f"{group}, label {label}" if label else group)
        for group, counts in zip(groups, cells.tolist(), strict=True)
        for label, rows in asked_cells(metric, sum(counts), dict(zip(classes, counts, strict=True))).items()
    )
