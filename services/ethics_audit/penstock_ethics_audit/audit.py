"""The audit itself: scores, groups and the pipeline's gates in, findings out. Pure, and the same
numbers for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from penstock.contracts.events import GateResult, Interval
from penstock.contracts.pipeline import Audit
from penstock_ethics_audit import fairness, intervals
from penstock_ethics_audit.gates import ThinCell, Verdict, judge, overall
from penstock_ethics_audit.groups import Grouping
from penstock_ethics_audit.performance import Measures, Meter, estimate, performance
from penstock_ethics_audit.scores import Codes, Floats, Scores


class Finding(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(Finding):
    """One rate of one group."""

    of: str
    """selection, true_positive or false_positive."""
    label: str
    """The class that it is about."""
    value: Interval | None


class GroupFindings(Finding):
    group: str
    rows: int
    cells: dict[str, int]
    """Rows by label; empty for a regression."""
    thin: bool
    """A cell has fewer rows than `min_rows`: what is said of this group is mostly chance."""
    rates: tuple[Rate, ...] = ()
    performance: dict[str, Interval | None]

    def rate(self, of: str, label: str) -> Interval | None:
        return next((rate.value for rate in self.rates if (rate.of, rate.label) == (of, label)), None)


class GroupingFindings(Finding):
    by: str
    min_rows: int
    groups: tuple[GroupFindings, ...]
    not_stated: int
    left_out: bool
    """The rows without this attribute are too few to be compared."""
    disparities: dict[str, Interval | None]
    """By notion; None where a group has no row of some label. Empty for a regression."""


class Findings(Finding):
    """All that the audit computed. Aggregates only."""

    verdict: Verdict
    gates: tuple[GateResult, ...]
    task: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...]
    rows: int
    entities: int
    labels: dict[str, int]
    """Rows by class; empty for a regression."""
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
    """`groupings`: one for each of `spec.groups`. `done` hears of each finished step."""
    sampler = _Sampler(scores.units, spec.resamples, spec.confidence, np.random.SeedSequence(seed))
    whole = sampler.measured(performance(scores), None)
    done("performance")
    found = []
    for grouping in groupings:
        found.append(_compare(scores, grouping, spec.groups[grouping.by].min_rows, sampler))
        done(f"groups by {grouping.by}")
    gates = _judged(spec, whole, found)
    counts = _counts(scores)
    return Findings(
        verdict=overall(gates),
        gates=gates,
        task=scores.task,
        classes=scores.classes,
        rows=len(scores),
        entities=int(scores.units.max()) + 1 if len(scores) else 0,
        labels=counts,
        abstained=0 if scores.decisions is None else int((scores.decisions < 0).sum()),
        performance=whole,
        groupings=tuple(found),
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=seed,
    )


class _Sampler:
    """Each measurement draws from a seed of its own, so that one more group changes no other number."""

    def __init__(self, units: Codes, resamples: int, confidence: float, seed: np.random.SeedSequence) -> None:
        self._units = units
        self._resamples = resamples
        self._seed = seed
        self.confidence = confidence

    def draw(self, strata: Codes | None, measure: Callable[[Floats], Measures]) -> Measures:
        return intervals.collect(
            intervals.draws(self._units, strata, self._resamples, self._seed.spawn(1)[0]), measure
        )

    def measured(self, meter: Meter, strata: Codes | None) -> dict[str, Interval | None]:
        estimates = estimate(meter, len(self._units))
        drawn = self.draw(strata, meter)
        return {
            name: intervals.percentile(drawn[name], value, self.confidence)
            for name, value in estimates.items()
        }


def _compare(scores: Scores, grouping: Grouping, min_rows: int, sampler: _Sampler) -> GroupingFindings:
    """One grouping: each group's performance and rates, and the notions that compare them."""
    if not grouping.groups:
        return GroupingFindings(
            by=grouping.by,
            min_rows=min_rows,
            groups=(),
            not_stated=grouping.not_stated,
            left_out=grouping.left_out,
            disparities={},
        )
    classes = max(len(scores.classes), 1)
    labels = scores.labels.astype(np.int64) if scores.classifies else np.zeros(len(scores), dtype=np.int64)
    cells = grouping.cells(labels, classes)
    members = [grouping.rows(group) for group in range(len(grouping.groups))]
    meters = [performance(scores.take(rows)) for rows in members]

    def by_group(weights: Floats) -> Measures:
        return {
            f"{name}/{group}": value
            for group, (rows, meter) in enumerate(zip(members, meters, strict=True))
            for name, value in meter(weights[:, rows]).items()
        }

    drawn = sampler.draw(grouping.codes, by_group)
    said: list[dict[str, Interval | None]] = [
        {
            name: intervals.percentile(drawn[f"{name}/{group}"], value, sampler.confidence)
            for name, value in estimate(meter, len(rows)).items()
        }
        for group, (rows, meter) in enumerate(zip(members, meters, strict=True))
    ]
    rates, disparities = (
        _rates(scores, grouping, labels, cells, sampler) if scores.classifies else ([()] * len(members), {})
    )
    return GroupingFindings(
        by=grouping.by,
        min_rows=min_rows,
        groups=tuple(
            GroupFindings(
                group=name,
                rows=len(members[group]),
                cells=dict(zip(scores.classes, cells[group].tolist(), strict=True))
                if scores.classifies
                else {},
                thin=bool(cells[group].min() < min_rows),
                rates=rates[group],
                performance=said[group],
            )
            for group, name in enumerate(grouping.groups)
        ),
        not_stated=grouping.not_stated,
        left_out=grouping.left_out,
        disparities=disparities,
    )


def _rates(
    scores: Scores, grouping: Grouping, labels: Codes, cells: Codes, sampler: _Sampler
) -> tuple[list[tuple[Rate, ...]], dict[str, Interval | None]]:
    """Selection rates are drawn within groups, true and false positive rates within cells: each is
    conditioned on what is kept.
    """
    measure = fairness.rates(scores, grouping)
    estimated = measure(np.ones((1, len(scores))))
    cell_of_row = np.where(grouping.codes < 0, -1, grouping.codes * len(scores.classes) + labels)
    within_group = sampler.draw(grouping.codes, lambda weights: {"selection": measure(weights).selection})
    within_cell = sampler.draw(
        cell_of_row, lambda weights: {"tp": (r := measure(weights)).true_positive, "fp": r.false_positive}
    )
    drawn = fairness.Rates(within_group["selection"], within_cell["tp"], within_cell["fp"])

    def rates_of(group: int) -> tuple[Rate, ...]:
        return tuple(
            Rate(
                of=of,
                label=scores.classes[c],
                value=intervals.percentile(draws[:, group, i], float(value[0, group, i]), sampler.confidence),
            )
            for i, c in enumerate(scores.of_interest)
            for of, draws, value in (
                ("selection", drawn.selection, estimated.selection),
                ("true_positive", drawn.true_positive, estimated.true_positive),
                ("false_positive", drawn.false_positive, estimated.false_positive),
            )
        )

    rates = [rates_of(group) for group in range(len(grouping.groups))]
    official = fairness.by_fairlearn(scores, grouping)
    return rates, {
        # fairlearn takes the rate of an empty cell as 0; here it is unknown.
        notion: intervals.disparity(
            notion,
            official[notion],
            fairness.contrasts(notion, estimated)[0],
            fairness.contrasts(notion, drawn),
            sampler.confidence,
        )
        if cells.min() > 0
        else None
        for notion in fairness.NOTIONS
    }


def _judged(
    spec: Audit, whole: dict[str, Interval | None], found: Iterable[GroupingFindings]
) -> tuple[GateResult, ...]:
    by_name = {grouping.by: grouping for grouping in found}
    results = []
    for gate in spec.gates:
        if gate.by is None:
            results.append(
                judge(gate, whole.get(gate.metric), why_unknown=f"{gate.metric} is not defined on these rows")
            )
            continue
        grouping = by_name[gate.by]
        value, why = grouping.disparities.get(gate.metric), ""
        if len(grouping.groups) < 2:
            value, why = None, f"there are not two groups of {gate.by} to compare"
        elif not grouping.disparities:
            why = f"{gate.metric} compares decisions; this model predicts a number"
        results.append(
            judge(gate, value, thin_cells(grouping), why or f"{gate.metric} is not defined on these rows")
        )
    return tuple(results)


def thin_cells(grouping: GroupingFindings) -> tuple[ThinCell, ...]:
    """The thinnest first."""
    cells = [
        ThinCell(grouping.by, group.group, label, rows, grouping.min_rows)
        for group in grouping.groups
        for label, rows in (group.cells or {"": group.rows}).items()
        if rows < grouping.min_rows
    ]
    return tuple(sorted(cells, key=lambda cell: cell.rows))


def _counts(scores: Scores) -> dict[str, int]:
    if not scores.classifies:
        return {}
    return dict(
        zip(
            scores.classes,
            np.bincount(scores.labels.astype(np.int64), minlength=len(scores.classes)).tolist(),
            strict=True,
        )
    )
