"""The gates: what a measured interval says about a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.contracts.events import GateResult, Interval
from penstock.contracts.pipeline import Gate

Verdict = Literal["pass", "fail", "inconclusive"]
Judge = Literal["lower_bound", "upper_bound", "estimate"]


@dataclass(frozen=True)
class ThinCell:
    """A cell (group x label) with fewer audit rows than the pipeline file asks for."""

    by: str
    group: str
    label: str
    rows: int
    min_rows: int

    def sentence(self) -> str:
        label = f", label {self.label}" if self.label else ""
        return f"{self.by} = {self.group}{label} has {self.rows} audit rows, {self.min_rows} are needed"


def judge(
    gate: Gate,
    value: Interval | None,
    thin: Sequence[ThinCell] = (),
    why_unknown: str = "",
    proven: Interval | None = None,
) -> GateResult:
    """Pass: the judged bound keeps the limit. Fail: the whole interval breaks it. Else, or with a
    thin cell, or unknown: inconclusive.

    `proven`: the measure between the groups that have enough rows, where others are thin. Over all
    groups it cannot be closer to parity, so it fails the gate where its whole interval breaks the
    limit.

    A bound that equals the limit keeps it. Without `judge` in the file the bound on the
    unfavourable side judges.
    """
    by = gate.judge or ("lower_bound" if gate.bound == "at_least" else "upper_bound")
    if thin and proven is not None and _breaks(gate, proven):
        value, thin, among = proven, (), "between the groups with enough rows, "
    else:
        among = ""
    verdict, reason = _verdict(gate, by, value, thin, why_unknown)
    return GateResult(
        metric=gate.metric,
        by=gate.by,
        bound=gate.bound,
        limit=gate.limit,
        judge=by,
        value=value,
        verdict=verdict,
        on_fail=gate.on_fail,
        reason=among + reason,
    )


def _verdict(
    gate: Gate, by: Judge, value: Interval | None, thin: Sequence[ThinCell], why_unknown: str
) -> tuple[Verdict, str]:
    if thin:
        more = f", and {len(thin) - 1} more such {'cell' if len(thin) == 2 else 'cells'}"
        return "inconclusive", thin[0].sentence() + (more if len(thin) > 1 else "")
    if value is None:
        return "inconclusive", why_unknown or "it could not be computed"
    judged = {"lower_bound": value.lower, "upper_bound": value.upper, "estimate": value.estimate}[by]
    limit, at_most, place = gate.limit, gate.bound == "at_most", by.replace("_", " ")
    if judged <= limit if at_most else judged >= limit:
        return "pass", f"the {place} {judged:.3f} keeps the limit {limit:g}"
    past = f"{abs(judged - limit):.3f} {'over' if at_most else 'under'} at the {place}"
    span = f"{value.lower:.3f} to {value.upper:.3f}"
    if _breaks(gate, value):
        return "fail", f"the whole interval {span} breaks the limit {limit:g}; {past}"
    return "inconclusive", f"the interval {span} straddles the limit {limit:g}; {past}"


def _breaks(gate: Gate, value: Interval) -> bool:
    return value.lower > gate.limit if gate.bound == "at_most" else value.upper < gate.limit
