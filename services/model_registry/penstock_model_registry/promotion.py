"""Decides whether a version may serve. Pure: findings come in as values, a decision goes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from penstock.contracts.events import Interval
from penstock.contracts.measures import MEASURES
from penstock.contracts.pipeline import Gate
from penstock.contracts.pipeline import Promotion as Policy
from penstock.packages.evidence import Verdict, Waiver, closed_gates, gate_name, may_be_waived

# Of the margin: by so much all retrainings together may fall behind the best version, and by so
# much a later one must lead to be the best (docs/decisions/a-tie-goes-to-the-newer-data.md).
BEST_SHARE = 0.5
MOST_TIMES = 100  # so many rows, of the present number, are still said to decide


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

    def margin(self, policy: Policy, *, by_data: bool) -> float:
        """Most that the challenger may be worse: the file's `max_drop`, or with `by_data` what these rows
        can show, if that is more: the width of the interval, so that a challenger is refused where it is
        proven worse. In a unit of the target's own there is no usual margin.
        """
        width = self.interval.upper - self.interval.lower
        return max(self._least(policy, by_data=by_data), width if by_data else 0.0)

    def _least(self, policy: Policy, *, by_data: bool) -> float:
        """Margin that is left on however many rows."""
        usual = not by_data or math.isfinite(MEASURES[self.metric].range[1])
        return policy.max_drop if usual else 0.0

    def sentence(
        self, policy: Policy, *, by_data: bool, share: float = 1.0, against: str = "the champion"
    ) -> str:
        """Says what was found, on how many rows, and what allows how much; `share` of the margin counts."""
        how = (
            f"on {self.rows:,} rows of both audit splits"
            if self.paired
            else f"on {self.rows:,} rows, drawn apart: the audit splits share too few rows to pair them"
        )
        found = self.interval
        return (
            f"against {against} {self.metric} is {_worse(found.estimate)}, at worst {_worse(found.upper)} and"
            f" at best {_worse(found.lower)}, {how}; {self._allowance(policy, by_data=by_data, share=share)}"
        )

    def _allowance(self, policy: Policy, *, by_data: bool, share: float) -> str:
        margin, why = self.margin(policy, by_data=by_data), ""
        key = "the default of promotion.max_drop" if by_data else "promotion.max_drop"
        if by_data and margin != policy.max_drop:
            key = "the width of this interval"
            why = ": these rows cannot show less; promotion.max_drop in the file sets another limit"
        part = "" if share == 1 else f"{share:.0%} of "
        return f"{part}{key} allows {share * margin:.4g} worse{why}"

    def deciding(self, policy: Policy, *, by_data: bool, share: float = 1.0) -> str:
        """Says how many rows would decide a refusal; nothing where it is decided. The interval narrows with
        the root of the rows, and so does a margin by data down to the usual one.
        """
        found, allowed = self.interval, share * self._least(policy, by_data=by_data)
        if found.lower > allowed:
            return ""
        room = allowed - found.estimate
        if not room > 0:
            return ". More rows would not change that while the estimate stays"
        rows = self.rows * ((found.upper - found.estimate) / room) ** 2
        if rows > MOST_TIMES * self.rows:
            return ". The estimate lies at that limit: no number of rows in reach would decide"
        return f". About {math.ceil(rows / 10) * 10:,} rows would decide"


def _worse(by: float) -> str:
    return f"{abs(by):.4f} {'worse' if by > 0 else 'better'}"


@dataclass(frozen=True)
class Evidence:
    """Verified statements about one version."""

    verdict: Verdict | None
    waiver: Waiver | None = None
    rejected: str | None = None  # the person who rejected the review, and why


@dataclass(frozen=True)
class Promoted:
    generation: int
    because: tuple[str, ...] = field(default=(), compare=False)  # the comparison with the champion


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
    best: Drop | None = None,
    by_data: bool = False,
) -> Decision:
    """Decides whether the challenger becomes `generation`.

    Evidence opens the gate: every gate that the pipeline asks for was judged, and each that did not
    pass is waived and waivable. The challenger may be worse than the champion by at most
    `drop.margin`, judged by the bound on the unfavourable side; `drop` is None where there is no
    champion or the policy does not compare. `best` is the loss against the best version that served
    before, so that many small losses do not add up. `doubts` are what verifying the package found
    wrong.
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
    because: tuple[str, ...] = ()
    if drop is not None:
        found = drop.sentence(policy, by_data=by_data)
        if not drop.interval.upper <= drop.margin(policy, by_data=by_data):
            return Refused((found + drop.deciding(policy, by_data=by_data),))
        because = (found,)
    if best is not None and not best.interval.estimate <= BEST_SHARE * best.margin(policy, by_data=by_data):
        whom = "the best version that served before"
        found = best.sentence(policy, by_data=by_data, share=BEST_SHARE, against=whom)
        return Refused((found + best.deciding(policy, by_data=by_data, share=BEST_SHARE),))
    return Promoted(generation, because)


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
    """A promotion of a pipeline's history."""

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
