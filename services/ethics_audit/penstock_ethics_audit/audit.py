"""The audit itself: takes scores, groups and the pipeline's gates, returns findings. Pure: the same
numbers for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from penstock.contracts.events import GateResult, Interval
from penstock.contracts.measures import Task, between_groups
from penstock.contracts.pipeline import Audit, Gate
from penstock.measures import fairness
from penstock.measures.intervals import Bootstrap, disparity, percentile
from penstock.measures.performance import performance
from penstock.measures.scores import ABSTAINED, Codes, Floats, Scores
from penstock.packages.evidence import overall
from penstock_ethics_audit.gates import ThinCell, Verdict, judge
from penstock_ethics_audit.groups import Grouping


class Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(Finding):
    """One rate of one group."""

    of: str  # `selection`, `true_positive` or `false_positive`
    label: str  # the class that it is about
    value: Interval | None


class GroupFindings(Finding):
    group: str
    rows: int
    cells: dict[str, int]  # rows by label; empty for a regression
    thin: bool  # a cell has fewer rows than `min_rows`: what is said of this group is mostly chance
    rates: tuple[Rate, ...] = ()
    performance: dict[str, Interval | None]

    def rate(self, of: str, label: str) -> Interval | None:
        return next((rate.value for rate in self.rates if (rate.of, rate.label) == (of, label)), None)


class GroupingFindings(Finding):
    by: str
    min_rows: int
    groups: tuple[GroupFindings, ...]
    not_stated: int
    left_out: bool  # the rows without this attribute are too few to be compared
    # Intervals by measure; None where a group has no row of some label. Empty for a
    # regression.
    disparities: dict[str, Interval | None]


class Findings(Finding):
    """Everything that the audit computed. Aggregates only."""

    verdict: Verdict
    gates: tuple[GateResult, ...]
    task: Task
    classes: tuple[str, ...]
    rows: int
    entities: int
    labels: dict[str, int]  # rows by class; empty for a regression
    abstained: int
    performance: dict[str, Interval | None]
    groupings: tuple[GroupingFindings, ...]
    confidence: float
    resamples: int
    seed: int


def audit(
    scores: Scores,
    groupings: Sequence[Grouping],
    spec: Audit,
    seed: int,
    done: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Measures the scores and judges the gates. `groupings`: one for each of `spec.groups`. `done`:
    called with the name of each finished step.
    """
    bootstrap = Bootstrap(scores.units, spec.resamples, spec.confidence, seed)
    whole = bootstrap.measured(None, performance(scores))
    done("performance")
    found: dict[str, GroupingFindings] = {}
    for grouping in groupings:
        found[grouping.by] = _compare(scores, grouping, spec.groups[grouping.by].min_rows, bootstrap)
        done(f"groups by {grouping.by}")
    gates = tuple(_judge(gate, whole, found) for gate in spec.gates)
    return Findings(
        verdict=overall(gates),
        gates=gates,
        task=scores.task,
        classes=scores.classes,
        rows=len(scores),
        entities=int(scores.units.max(initial=-1)) + 1,
        labels=_by_class(scores, np.bincount(scores.label_codes, minlength=len(scores.classes))),
        abstained=int((scores.chosen == ABSTAINED).sum()) if scores.classifies else 0,
        performance=whole,
        groupings=tuple(found.values()),
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=seed,
    )


def _compare(scores: Scores, grouping: Grouping, min_rows: int, bootstrap: Bootstrap) -> GroupingFindings:
    groups, disparities = _groups(scores, grouping, min_rows, bootstrap) if grouping.groups else ((), {})
    return GroupingFindings(
        by=grouping.by,
        min_rows=min_rows,
        groups=groups,
        not_stated=grouping.not_stated,
        left_out=grouping.left_out,
        disparities=disparities,
    )


def _groups(
    scores: Scores, grouping: Grouping, min_rows: int, bootstrap: Bootstrap
) -> tuple[tuple[GroupFindings, ...], dict[str, Interval | None]]:
    cells = grouping.cells(scores.label_codes, max(len(scores.classes), 1))
    measured = _by_group(scores, grouping, bootstrap)
    rates, disparities = (
        _rates(scores, grouping, bootstrap) if scores.classifies else ([()] * len(measured), {})
    )
    return tuple(
        GroupFindings(
            group=name,
            rows=int(cells[group].sum()),
            cells=_by_class(scores, cells[group]),
            thin=bool(cells[group].min() < min_rows),
            rates=rates[group],
            performance=measured[group],
        )
        for group, name in enumerate(grouping.groups)
    ), disparities


def _by_group(scores: Scores, grouping: Grouping, bootstrap: Bootstrap) -> list[dict[str, Interval | None]]:
    """Each group's own performance, drawn within the groups."""
    members = [grouping.rows(group) for group in range(len(grouping.groups))]
    meters = [performance(scores.take(rows)) for rows in members]

    def measure(weights: Floats) -> dict[str, Floats]:
        return {
            f"{group}/{name}": value
            for group, (rows, meter) in enumerate(zip(members, meters, strict=True))
            for name, value in meter(weights[:, rows]).items()
        }

    measured = bootstrap.measured(grouping.codes, measure).items()
    return [
        {key.removeprefix(own): value for key, value in measured if key.startswith(own)}
        for own in (f"{group}/" for group in range(len(members)))
    ]


def _rates(
    scores: Scores, grouping: Grouping, bootstrap: Bootstrap
) -> tuple[list[tuple[Rate, ...]], dict[str, Interval | None]]:
    """Rates of each group, and the measures between groups by name. Selection rates are drawn within
    groups, true and false positive rates within cells: each is conditioned on what is kept.
    """
    measure = fairness.rates(scores, grouping.codes)
    estimated = measure(np.ones((1, len(scores))))
    cell_of_row = np.where(grouping.codes < 0, -1, grouping.codes * len(scores.classes) + scores.label_codes)
    within_group = bootstrap.draw(grouping.codes, lambda weights: {"selection": measure(weights).selection})
    within_cell = bootstrap.draw(
        cell_of_row, lambda weights: {"tp": (r := measure(weights)).true_positive, "fp": r.false_positive}
    )
    drawn = fairness.Rates(within_group["selection"], within_cell["tp"], within_cell["fp"])

    rates = [
        tuple(
            Rate(
                of=of,
                label=scores.classes[c],
                value=percentile(draws[:, group, i], float(value[0, group, i]), bootstrap.confidence),
            )
            for i, c in enumerate(scores.of_interest)
            for of, draws, value in (
                ("selection", drawn.selection, estimated.selection),
                ("true_positive", drawn.true_positive, estimated.true_positive),
                ("false_positive", drawn.false_positive, estimated.false_positive),
            )
        )
        for group in range(len(grouping.groups))
    ]
    return rates, {
        notion.name: disparity(notion.name, estimated, drawn, bootstrap.confidence)
        for notion in between_groups(scores.task)
    }


def _judge(
    gate: Gate, whole: Mapping[str, Interval | None], found: Mapping[str, GroupingFindings]
) -> GateResult:
    unknown = f"{gate.metric} is not defined on these rows"
    if gate.by is None:
        return judge(gate, whole.get(gate.metric), why_unknown=unknown)
    grouping = found[gate.by]
    if len(grouping.groups) < 2:
        unknown = f"there are not two groups of {gate.by} to compare"
    elif not grouping.disparities:
        unknown = f"{gate.metric} compares decisions; this model predicts a number"
    value = grouping.disparities.get(gate.metric) if len(grouping.groups) > 1 else None
    return judge(gate, value, _thin_cells(grouping), unknown)


def _thin_cells(grouping: GroupingFindings) -> list[ThinCell]:
    """Cells with fewer rows than `min_rows`, thinnest first."""
    cells = (
        ThinCell(grouping.by, group.group, label, rows, grouping.min_rows)
        for group in grouping.groups
        for label, rows in (group.cells or {"": group.rows}).items()
        if rows < grouping.min_rows
    )
    return sorted(cells, key=lambda cell: cell.rows)


def _by_class(scores: Scores, rows: Codes) -> dict[str, int]:
    return dict(zip(scores.classes, rows.tolist(), strict=False))  # a regression has no classes
