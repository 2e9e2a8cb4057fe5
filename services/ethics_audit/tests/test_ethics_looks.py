"""Sentences about earlier looks at the same audit rows."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.events import GateResult
from penstock.testing.packages import AUROC_PASSED, gate
from penstock_ethics_audit.looks import Looks, looked, rules_of, words

PARITY = gate()


def seen(then: list[list[GateResult]], rows: int = 1354) -> Looks:
    """Audits by these very rows, with such gates."""
    return looked(rows, [(rows, rules_of(gates)) for gates in then])


def auroc(limit: float, **changes: Any) -> GateResult:
    return AUROC_PASSED.model_copy(update={"limit": limit} | changes)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ([], [auroc(0.7)], ""),
        (
            [[auroc(0.7)]],
            [auroc(0.7)],
            "2nd look at these audit rows: an audit judged models by them before.",
        ),
        (
            [[auroc(0.71)]] * 3,
            [auroc(0.65)],
            "4th look at these audit rows: 3 audits judged models by them before."
            " auroc at_least was 0.71 in looks 1 to 3, now 0.65: looser.",
        ),
        (
            [[auroc(0.6)], [auroc(0.7)], [auroc(0.6)]],
            [auroc(0.7)],
            "4th look at these audit rows: 3 audits judged models by them before."
            " auroc at_least was 0.6 in 2 of them, now 0.7: tighter.",
        ),
        (
            [[auroc(0.7), PARITY], [PARITY]],
            [auroc(0.7, judge="estimate", on_fail="review")],
            "3rd look at these audit rows: 2 audits judged models by them before."
            " auroc at_least was judged by the lower bound in look 1, now by the estimate: looser."
            " auroc at_least had `on_fail: block` in look 1, now `review`: looser."
            " auroc at_least 0.7 was not asked in look 2: tighter now."
            " equalized_odds_difference by sex at_most 0.15 was asked in looks 1 to 2 and is not now:"
            " looser.",
        ),
        (
            [[PARITY.model_copy(update={"limit": 0.1, "judge": "estimate"})]],
            [PARITY],
            "2nd look at these audit rows: an audit judged models by them before."
            " equalized_odds_difference by sex at_most was 0.1 in look 1, now 0.15: looser."
            " equalized_odds_difference by sex at_most was judged by the estimate in look 1, now by the upper"
            " bound: tighter.",
        ),
    ],
    ids=["first", "alike", "lowered", "to and fro", "dropped", "at most"],
)
def test_a_look_is_counted_and_the_gates_that_were_others_are_named(
    then: list[list[GateResult]], now: list[GateResult], said: str
) -> None:
    assert words(seen(then), now) == said


def test_who_tries_many_limits_is_not_told_each() -> None:
    said = words(seen([[auroc(number / 100)] for number in range(20)]), [auroc(0.5)])
    assert said.startswith("21st look")
    assert said.endswith("And 14 more such changes.")


def test_the_order_of_gates_does_not_matter() -> None:
    assert "was" not in words(seen([[auroc(0.7), PARITY]]), [PARITY, auroc(0.7)])


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        ([1340], "2nd look at these audit rows: an audit judged models by 1,340 of the 1,354 before."),
        (
            [700, 40, 1354],
            "3rd look at these audit rows: 2 audits judged models by 700 to 1,354 of the 1,354 before.",
        ),
        ([135], ""),
        ([1354], "2nd look at these audit rows: an audit judged models by them before."),
    ],
)
def test_rows_of_which_some_were_looked_at_are_counted(shared: list[int], said: str) -> None:
    rules = rules_of([auroc(0.7)])
    assert words(looked(1354, [(rows, rules) for rows in shared]), [auroc(0.7)]) == said


def test_audits_whose_rows_are_not_known_are_said() -> None:
    said = words(looked(1354, [], unread=2), [auroc(0.7)])
    assert said == "By which rows 2 older audits judged is not known any more."
