"""The gates: what a measured interval says about a limit, and what the gates say together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.contracts.events import GateResult, Interval
from penstock.contracts.pipeline import Gate

Verdict = Literal["pass", "fail", "inconclusive"]
Judge = Literal["lower_bound", "upper_bound", "estimate"]

_JUDGED = {"lower_bound": "lower bound", "upper_bound": "upper bound", "estimate": "estimate"}


@dataclass(frozen=True)
class ThinCell:
    """A cell (group x label) with fewer audit rows than the pipeline file asks for."""

    by: str
    group: str
    label: str
    rows: int
    min_rows: int

    def sentence(self) -> str:
        of = f"{self.by} = {self.group}, label {self.label}" if self.label else f"{self.by} = {self.group}"
        return f"{of} has {self.rows} audit rows, {self.min_rows} are needed"


def judge(
    gate: Gate, value: Interval | None, thin: Sequence[ThinCell] = (), why_unknown: str = ""
) -> GateResult:
    """Pass: the judged bound keeps the limit. Fail: the whole interval breaks it. Else, or with a
    thin cell, or unknown: inconclusive.

    A bound that equals the limit keeps it. Without `judge` in the file the bound on the
    unfavourable side judges.
    """
    bound, limit = _limit(gate)
    by = gate.judge or unfavourable(bound)
    verdict, reason = _verdict(bound, limit, by, value, thin, why_unknown)
    return GateResult(
        metric=gate.metric,
        by=gate.by,
        bound=bound,
        limit=limit,
        judge=by,
        value=value,
        verdict=verdict,
        on_fail=gate.on_fail,
        reason=reason,
    )


def overall(gates: Iterable[GateResult]) -> Verdict:
    """Fail if any gate fails, else inconclusive if any is, else pass. No gates: pass, for nothing
    was asked.
    """
    verdicts = {gate.verdict for gate in gates}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts else "pass"


def not_passed(gates: Iterable[GateResult]) -> tuple[GateResult, ...]:
    return tuple(gate for gate in gates if gate.verdict != "pass")


def may_be_waived(gates: Iterable[GateResult]) -> bool:
    """Returns true where a person may decide: something did not pass, and none of it blocks."""
    closed = not_passed(gates)
    return bool(closed) and all(gate.on_fail == "review" for gate in closed)


def unfavourable(bound: Literal["at_least", "at_most"]) -> Judge:
    return "lower_bound" if bound == "at_least" else "upper_bound"


def _limit(gate: Gate) -> tuple[Literal["at_least", "at_most"], float]:
    if gate.at_least is not None:
        return "at_least", gate.at_least
    assert gate.at_most is not None, "the pipeline's rules let no gate pass without a limit"
    return "at_most", gate.at_most


def _verdict(
    bound: Literal["at_least", "at_most"],
    limit: float,
    by: Judge,
    value: Interval | None,
    thin: Sequence[ThinCell],
    why_unknown: str,
) -> tuple[Verdict, str]:
    if thin:
        more = (
            f", and {len(thin) - 1} more such {'cell' if len(thin) == 2 else 'cells'}"
            if len(thin) > 1
            else ""
        )
        return "inconclusive", f"{thin[0].sentence()}{more}"
    if value is None:
        return "inconclusive", why_unknown or "it could not be computed"
    judged = {"lower_bound": value.lower, "upper_bound": value.upper, "estimate": value.estimate}[by]
    at_most = bound == "at_most"
    keeps = judged <= limit if at_most else judged >= limit
    breaks_whole = value.lower > limit if at_most else value.upper < limit
    if keeps:
        return "pass", f"the {_JUDGED[by]} {judged:.3f} keeps the limit {limit:g}"
    past = f"{abs(judged - limit):.3f} {'over' if at_most else 'under'} at the {_JUDGED[by]}"
    span = f"{value.lower:.3f} to {value.upper:.3f}"
    if breaks_whole:
        return "fail", f"the whole interval {span} breaks the limit {limit:g}; {past}"
    return "inconclusive", f"the interval {span} straddles the limit {limit:g}; {past}"
