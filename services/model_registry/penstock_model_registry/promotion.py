"""Decides whether a version may serve. Pure: findings come in as values, a decision goes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.contracts.events import Interval
from penstock.contracts.measures import MEASURES
from penstock.contracts.pipeline import Gate
from penstock.contracts.pipeline import Promotion as Policy
from penstock.packages.evidence import Verdict, Waiver, closed_gates, gate_name, may_be_waived


@dataclass(frozen=True)
class Drop:
    """Loss of the challenger against the champion, in the metric's own units; negative: it is
    better.
    """

    metric: str
    interval: Interval
    rows: int  # on which both were scored, or those of the smaller split when unpaired
    # Row by row on one audit split. Else the splits share too few rows, each was drawn by itself,
    # and the interval is wider for it.
    paired: bool

    def sentence(self, allowed: float) -> str:
        falls = "falls" if MEASURES[self.metric].higher_is_better else "rises"
        how = (
            f"on {self.rows:,} rows of both audit splits"
            if self.paired
            else "the audit splits share too few rows to pair them"
        )
        interval = f"{self.interval.estimate:+.4f} [{self.interval.lower:+.4f}, {self.interval.upper:+.4f}]"
        return (
            f"{self.metric} {falls} against the champion by up to {self.interval.upper:.4f}, allowed"
            f" {allowed:g} ({interval}; {how})"
        )


@dataclass(frozen=True)
class Evidence:
    """Verified statements about one version."""

    verdict: Verdict | None
    waiver: Waiver | None = None
    rejected: str | None = None  # the person who rejected the review, and why


@dataclass(frozen=True)
class Promoted:
    generation: int


@dataclass(frozen=True)
class Refused:
    because: tuple[str, ...]


@dataclass(frozen=True)
class AwaitsReview:
    """Every gate that did not pass may be waived by a person."""

    because: tuple[str, ...]


Decision = Promoted | Refused | AwaitsReview
Reason = Literal["promoted", "rolled_back"]


def weigh(
    evidence: Evidence,
    required: Iterable[Gate],
    drop: Drop | None,
    policy: Policy,
    *,
    generation: int,
    doubts: Sequence[str] = (),
) -> Decision:
    """Decides whether the challenger becomes `generation`.

    Evidence opens the gate: every gate that the pipeline asks for was judged, and each that did not
    pass is waived and waivable. The challenger may be worse than the champion by at most
    `policy.max_drop` of the metric, judged by the bound on the unfavourable side; `drop` is None
    where there is no champion or the policy does not compare. `doubts` are what verifying the
    package found wrong.
    """
    if doubts:
        return Refused(tuple(doubts))
    if evidence.verdict is None:
        return Refused(("there is no audit yet",))
    if skipped := unjudged(evidence.verdict, required):
        return Refused(
            tuple(
                f"{name}: the pipeline asks for this gate and the audit did not judge it" for name in skipped
            )
        )
    if closed := closed_gates(evidence.verdict, evidence.waiver):
        if evidence.rejected:
            return Refused((evidence.rejected, *closed))
        if evidence.waiver is None and may_be_waived(evidence.verdict.gates):
            return AwaitsReview(tuple(closed))
        return Refused(tuple(closed))
    if drop is not None and not drop.interval.upper <= policy.max_drop:
        return Refused((drop.sentence(policy.max_drop),))
    return Promoted(generation)


def unjudged(verdict: Verdict, required: Iterable[Gate]) -> list[str]:
    """Names of the gates that the pipeline asks for and the verdict passes over, or judges as less
    strict than asked.
    """
    judged = {(gate_name(gate), gate.on_fail) for gate in verdict.gates}
    return [
        gate_name(gate)
        for gate in required
        if not {(gate_name(gate), gate.on_fail), (gate_name(gate), "block")} & judged
    ]


@dataclass(frozen=True)
class Generation:
    """One promotion of a pipeline's history."""

    generation: int
    digest: str
    reason: Reason


def standing(history: Iterable[Generation]) -> list[Generation]:
    """The promotions that stand, oldest first: each one adds itself, each rollback takes the newest away.

    The last is the champion's; the one before it is what a rollback goes back to. So rolling back
    twice goes back two versions, never forward to the one that was just left. The oldest one known
    stands, even as a rollback: a lost database took those before it.
    """
    stack: list[Generation] = []
    for promotion in sorted(history, key=lambda one: one.generation):
        if promotion.reason == "promoted" or not stack:
            stack.append(promotion)
        elif len(stack) > 1:
            stack.pop()
    return stack
