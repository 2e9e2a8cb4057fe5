"""The audit itself: takes scores, groups and the pipeline's gates, returns findings. Pure: the same
numbers for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from penstock.contracts.events import GateResult, Interval
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Audit, Gate
from penstock.measures.groups import Grouping, asked_cells
from penstock.measures.intervals import Bootstrap
from penstock.measures.parity import MOST_PASS
from penstock.measures.performance import performance, proportions
from penstock.measures.scores import ABSTAINED, Codes, Scores
from penstock.packages.evidence import overall
from penstock_ethics_audit.disparities import Compared, compare
from penstock_ethics_audit.gates import ThinCell, Verdict, judge


class Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(Finding):
    """A rate of one group."""

    of: str  # its name in `penstock.measures.fairness.RATES`
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


class Fair(Finding):
    """Results of audits of a perfectly fair model in these cells at the end away from parity, by chance."""

    usual: float  # the median
    mostly: float  # a bound that four of five keep


class GroupingFindings(Finding):
    by: str
    min_rows: int
    groups: tuple[GroupFindings, ...]
    not_stated: int
    left_out: bool  # the rows without this attribute are too few of some label to be compared
    unstated: dict[str, int] = Field(default_factory=dict)  # these by label, where they are left out
    # Intervals by measure; None where a group has no row of some label. Empty for a
    # regression.
    disparities: dict[str, Interval | None]
    # The same between the groups alone that have `min_rows` in each cell that the measure asks for,
    # where some have not.
    proven: dict[str, Interval | None] = Field(default_factory=dict)
    thin: tuple[str, ...] = ()  # measures that not all groups have enough rows for
    fair: dict[str, Fair] = Field(default_factory=dict)


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
    whole = _exactly(scores, bootstrap.measured(performance(scores)), bootstrap)
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
    cells = grouping.cells(scores.label_codes, max(len(scores.classes), 1))
    measured = [
        _own_performance(scores, grouping.rows(group), bootstrap) for group in range(len(grouping.groups))
    ]
    compares = scores.classifies and bool(grouping.groups)
    compared = compare(scores, grouping, min_rows, bootstrap) if compares else Compared([()] * len(measured))
    return GroupingFindings(
        by=grouping.by,
        min_rows=min_rows,
        groups=tuple(
            GroupFindings(
                group=name,
                rows=int(cells[group].sum()),
                cells=_by_class(scores, cells[group]),
                thin=bool(cells[group].min() < min_rows),
                rates=tuple(
                    Rate(of=of, label=label, value=value) for of, label, value in compared.rates[group]
                ),
                performance=measured[group],
            )
            for group, name in enumerate(grouping.groups)
        ),
        not_stated=grouping.not_stated,
        left_out=grouping.left_out,
        unstated=_by_class(scores, _unstated(scores, grouping)) if grouping.left_out else {},
        disparities=compared.disparities,
        proven=compared.proven,
        thin=compared.thin,
        fair={
            name: Fair(usual=float(np.median(bounds)), mostly=float(np.quantile(bounds, MOST_PASS)))
            for name, bounds in compared.fair.items()
        },
    )


def _unstated(scores: Scores, grouping: Grouping) -> Codes:
    """[classes]: rows of each label that take no part in the comparison."""
    return np.bincount(scores.label_codes[grouping.codes < 0], minlength=len(scores.classes))


def _own_performance(scores: Scores, rows: Codes, bootstrap: Bootstrap) -> dict[str, Interval | None]:
    """A group's own performance, drawn within the group."""
    own, within = scores.take(rows), bootstrap.within(rows)
    return _exactly(own, within.measured(performance(own)), within)


def _exactly(
    scores: Scores, measured: dict[str, Interval | None], bootstrap: Bootstrap
) -> dict[str, Interval | None]:
    """Gives shares of rows their exact intervals."""
    shares = proportions(scores).items()
    return measured | {name: bootstrap.share(hits, rows, measured.get(name)) for name, (hits, rows) in shares}


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
    proven = grouping.proven.get(gate.metric)
    return judge(gate, value, _thin_cells(grouping, gate.metric), unknown, proven)


def _thin_cells(grouping: GroupingFindings, metric: str) -> list[ThinCell]:
    """Cells that the measure asks for with fewer rows than `min_rows`, thinnest first."""
    cells = (
        ThinCell(grouping.by, group.group, label, rows, grouping.min_rows)
        for group in grouping.groups
        for label, rows in asked_cells(metric, group.rows, group.cells).items()
        if rows < grouping.min_rows
    )
    return sorted(cells, key=lambda cell: cell.rows)


def _by_class(scores: Scores, rows: Codes) -> dict[str, int]:
    return dict(zip(scores.classes, rows.tolist(), strict=False))  # a regression has no classes
