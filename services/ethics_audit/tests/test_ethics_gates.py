"""The gate table by example, the boundary included."""

from __future__ import annotations

import pytest

from penstock.contracts.events import Interval
from penstock.contracts.pipeline import Gate
from penstock.packages.evidence import may_be_waived, overall
from penstock_ethics_audit.gates import ThinCell, judge

AT_MOST = Gate(metric="equalized_odds_difference", by="sex", at_most=0.10)
AT_LEAST = Gate(metric="auroc", at_least=0.88)


def between(lower: float, estimate: float, upper: float) -> Interval:
    return Interval(estimate=estimate, lower=lower, upper=upper)


@pytest.mark.parametrize(
    ("gate", "value", "verdict"),
    [
        (AT_MOST, between(0.046, 0.056, 0.086), "pass"),
        (AT_MOST, between(0.046, 0.056, 0.100), "pass"),  # a bound that equals the limit keeps it
        (AT_MOST, between(0.046, 0.056, 0.1000001), "inconclusive"),
        (
            AT_MOST,
            between(0.100, 0.115, 0.142),
            "inconclusive",
        ),  # the lower bound keeps it: not the whole interval breaks
        (AT_MOST, between(0.1000001, 0.115, 0.142), "fail"),
        (AT_LEAST, between(0.909, 0.914, 0.919), "pass"),
        (AT_LEAST, between(0.880, 0.914, 0.919), "pass"),
        (AT_LEAST, between(0.879, 0.881, 0.919), "inconclusive"),
        (AT_LEAST, between(0.850, 0.870, 0.880), "inconclusive"),
        (AT_LEAST, between(0.850, 0.870, 0.8799), "fail"),
    ],
)
def test_by_default_the_unfavourable_bound_judges(gate: Gate, value: Interval, verdict: str) -> None:
    assert judge(gate, value).verdict == verdict


@pytest.mark.parametrize(
    ("judged", "verdict"),
    [("upper_bound", "inconclusive"), ("estimate", "pass"), ("lower_bound", "pass"), (None, "inconclusive")],
)
def test_the_file_may_name_the_judge(judged: str | None, verdict: str) -> None:
    gate = Gate(metric="equalized_odds_difference", by="sex", at_most=0.10, judge=judged)  # type: ignore[arg-type]
    assert judge(gate, between(0.07, 0.09, 0.12)).verdict == verdict


def test_a_thin_cell_makes_it_inconclusive_even_where_the_interval_would_pass_and_is_named() -> None:
    cells = (ThinCell("sex", "Female", ">50K", 9, 30), ThinCell("sex", "Male", ">50K", 20, 30))
    result = judge(AT_MOST, between(0.01, 0.02, 0.03), cells)
    assert result.verdict == "inconclusive"
    assert result.reason == "sex = Female, label >50K has 9 audit rows, 30 are needed, and 1 more such cell"


def test_what_cannot_be_computed_is_inconclusive_and_says_why() -> None:
    result = judge(AT_LEAST, None, why_unknown="auroc is not defined on these rows")
    assert (result.verdict, result.value, result.reason) == (
        "inconclusive",
        None,
        "auroc is not defined on these rows",
    )


def test_the_reason_says_how_far_off() -> None:
    assert judge(AT_MOST, between(0.104, 0.115, 0.142)).reason == (
        "the whole interval 0.104 to 0.142 breaks the limit 0.1; 0.042 over at the upper bound"
    )


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((), "pass"),
        (("pass", "pass"), "pass"),
        (("pass", "inconclusive"), "inconclusive"),
        (("inconclusive", "fail", "pass"), "fail"),
    ],
)
def test_the_worst_gate_decides(verdicts: tuple[str, ...], expected: str) -> None:
    values = {
        "pass": between(0, 0.01, 0.02),
        "inconclusive": between(0, 0.01, 0.2),
        "fail": between(0.3, 0.4, 0.5),
    }
    assert overall([judge(AT_MOST, values[verdict]) for verdict in verdicts]) == expected


def test_a_person_may_decide_only_when_nothing_closed_blocks() -> None:
    review = AT_MOST.model_copy(update={"on_fail": "review"})
    closed, passed = between(0.3, 0.4, 0.5), between(0.0, 0.01, 0.02)
    assert may_be_waived([judge(review, closed), judge(AT_MOST, passed)])
    assert not may_be_waived([judge(review, closed), judge(AT_MOST, closed)])
    assert not may_be_waived([judge(review, passed)])
