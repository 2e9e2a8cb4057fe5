"""The decision who may serve, case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.events import GateResult, Interval
from penstock.contracts.pipeline import Gate, Promotion
from penstock.packages.evidence import Verdict, Waiver, gate_name
from penstock.testing.packages import NOW, gate
from penstock_model_registry.promotion import (
    AwaitsReview,
    Drop,
    Evidence,
    Generation,
    Promoted,
    Refused,
    standing,
    unjudged,
    weigh,
)

DIGEST = "sha256:" + "a" * 64
POLICY = Promotion(max_drop=0.005)
SAID = {"pipeline": "loans", "digest": DIGEST, "at": NOW, "audit_id": "A1"}


def verdict(*gates: GateResult) -> Verdict:
    said = {one.verdict for one in gates}
    overall = "fail" if "fail" in said else "inconclusive" if "inconclusive" in said else "pass"
    return Verdict.model_validate(SAID | {"verdict": overall, "gates": gates, "result_digest": DIGEST})


def waiver(*gates: GateResult) -> Waiver:
    return Waiver.model_validate(
        SAID | {"gates": [gate_name(one) for one in gates], "decided_by": "Ada", "why": "so"}
    )


def drop(upper: float) -> Drop:
    return Drop(
        "auroc", Interval(estimate=upper - 0.001, lower=upper - 0.002, upper=upper), rows=500, paired=True
    )


FAILED, UNSURE, BLOCKED = gate("fail"), gate("inconclusive"), gate("fail", on_fail="block")


@pytest.mark.parametrize(
    ("evidence", "fall", "decided"),
    [
        (Evidence(verdict(gate())), None, Promoted(4)),
        (Evidence(verdict()), None, Promoted(4)),
        (Evidence(None), None, Refused),
        (Evidence(verdict(FAILED)), None, AwaitsReview),
        (Evidence(verdict(UNSURE)), None, AwaitsReview),
        (Evidence(verdict(BLOCKED)), None, Refused),
        (Evidence(verdict(gate("fail", metric="auroc"), BLOCKED)), None, Refused),
        (Evidence(verdict(FAILED), waiver(FAILED)), None, Promoted(4)),
        (Evidence(verdict(UNSURE), waiver(UNSURE)), None, Promoted(4)),
        (Evidence(verdict(BLOCKED), waiver(BLOCKED)), None, Refused),
        (Evidence(verdict(gate("fail", metric="auroc"), FAILED), waiver(FAILED)), None, Refused),
        (Evidence(verdict(FAILED), rejected="Ada rejected the review: no"), None, Refused),
        (Evidence(verdict(gate())), drop(0.005), Promoted(4)),
        (Evidence(verdict(gate())), drop(0.0051), Refused),
        (Evidence(verdict(gate())), drop(-0.1), Promoted(4)),
        (Evidence(verdict(gate())), drop(float("nan")), Refused),
        (Evidence(verdict(FAILED), waiver(FAILED)), drop(0.1), Refused),
    ],
)
def test_the_rule(evidence: Evidence, fall: Drop | None, decided: object) -> None:
    decision = weigh(evidence, (), fall, POLICY, generation=4)
    assert decision == decided if isinstance(decided, Promoted) else type(decision) is decided
    if isinstance(decision, Refused | AwaitsReview):
        assert all(decision.because)


def test_a_refusal_says_how_far_and_against_whom() -> None:
    decision = weigh(Evidence(verdict(gate())), (), drop(0.01), POLICY, generation=1)
    assert isinstance(decision, Refused)
    assert decision.because == (
        (
            "against the champion auroc is 0.0090 worse, at worst 0.0100 worse and at best 0.0080 worse, on"
            " 500 rows of both audit splits; promotion.max_drop allows 0.005 worse"
        ),
    )


def test_a_refusal_says_how_many_rows_would_decide() -> None:
    wide = Drop("auroc", Interval(estimate=-0.004, lower=-0.019, upper=0.012), rows=301, paired=True)
    decision = weigh(Evidence(verdict(gate())), (), wide, POLICY, generation=1)
    assert isinstance(decision, Refused)
    assert "auroc is 0.0040 better, at worst 0.0120 worse and at best 0.0190 better" in decision.because[0]
    assert decision.because[0].endswith("About 960 rows would decide")
    by_data = weigh(Evidence(verdict(gate())), (), wide, POLICY, generation=1, by_data=True)
    assert by_data == Promoted(1), "such a loss is within what so few rows can show"
    small = Drop("auroc", Interval(estimate=0.004, lower=0.001, upper=0.007), rows=5000, paired=True)
    proven = weigh(Evidence(verdict(gate())), (), small, POLICY, generation=1, by_data=True)
    assert isinstance(proven, Refused)
    assert proven.because[0].endswith("rows would decide"), "on more of them the usual margin holds it"


@pytest.mark.parametrize(
    ("found", "by_data", "end"),
    [
        ((0.0354, 0.0177, 0.0531), True, "promotion.max_drop in the file sets another limit"),
        ((0.0354, 0.0353, 0.0355), False, "promotion.max_drop allows 0.005 worse"),
        ((0.0051, 0.001, 0.01), False, "More rows would not change that while the estimate stays"),
        ((0.004999999, 0.0, 0.01), False, "no number of rows in reach would decide"),
    ],
    ids=["proven worse", "worse than allowed", "worse on the whole", "at the limit"],
)
def test_a_refusal_that_rows_cannot_change_names_no_number(
    found: tuple[float, float, float], by_data: bool, end: str
) -> None:
    estimate, lower, upper = found
    wide = Drop("auroc", Interval(estimate=estimate, lower=lower, upper=upper), rows=1354, paired=True)
    decision = weigh(Evidence(verdict(gate())), (), wide, POLICY, generation=1, by_data=by_data)
    assert isinstance(decision, Refused)
    assert decision.because[0].endswith(end)
    assert "rows would decide" not in decision.because[0]


def test_a_promotion_says_how_it_compares_and_which_margin_was_used() -> None:
    wide = Drop("auroc", Interval(estimate=0.006, lower=-0.012, upper=0.023), rows=1354, paired=True)
    decision = weigh(Evidence(verdict(gate())), (), wide, POLICY, generation=2, by_data=True)
    assert isinstance(decision, Promoted)
    assert decision.because == (
        "against the champion auroc is 0.0060 worse, at worst 0.0230 worse and at best 0.0120 better, on"
        " 1,354 rows of both audit splits; the width of this interval allows 0.035 worse: these rows"
        " cannot show less; promotion.max_drop in the file sets another limit",
    )


def test_a_margin_by_data_is_no_less_than_the_usual_one_and_has_the_targets_unit() -> None:
    sure = Interval(estimate=0.0, lower=-0.001, upper=0.001)
    assert Drop("auroc", sure, 90_000, paired=True).margin(POLICY, by_data=True) == POLICY.max_drop
    assert Drop("rmse", sure, 90_000, paired=True).margin(POLICY, by_data=True) == 0.002


def test_small_losses_do_not_add_up() -> None:
    """It is as good as the champion, which is worse than one before it."""
    best = Drop("auroc", Interval(estimate=0.02, lower=0.01, upper=0.03), rows=500, paired=True)
    evidence = Evidence(verdict(gate()))
    decision = weigh(evidence, (), drop(0.001), POLICY, generation=3, best=best, by_data=True)
    assert isinstance(decision, Refused)
    assert decision.because[0].startswith("against the best version that served before auroc is 0.0200 worse")
    equal = Drop("auroc", Interval(estimate=0.001, lower=-0.01, upper=0.012), rows=500, paired=True)
    assert weigh(evidence, (), drop(0.001), POLICY, generation=3, best=equal, by_data=True) == Promoted(3)


def test_a_package_in_doubt_is_refused_whatever_the_evidence() -> None:
    assert weigh(Evidence(verdict(gate())), (), None, POLICY, generation=1, doubts=["tampered"]) == Refused(
        ("tampered",)
    )


def test_a_verdict_must_have_judged_what_the_pipeline_asks_for() -> None:
    asked = Gate(metric="auroc", at_least=0.7)
    softer = gate(metric="auroc", on_fail="review")
    assert unjudged(verdict(gate()), [asked]) == ["auroc at_least 0.7"]
    assert unjudged(verdict(softer), [asked]) == ["auroc at_least 0.7"], "asked was a gate that blocks"
    assert unjudged(verdict(gate(metric="auroc", on_fail="block")), [asked]) == []
    decision = weigh(Evidence(verdict(gate())), [asked], None, POLICY, generation=1)
    assert isinstance(decision, Refused)
    assert "did not judge it" in decision.because[0]


GATES = st.lists(
    st.builds(
        gate,
        st.sampled_from(["pass", "fail", "inconclusive"]),
        st.sampled_from(["review", "block"]),
        st.sampled_from(["auroc", "x"]),
    ),
    max_size=2,
    unique_by=lambda one: one.metric,
)


@given(gates=GATES, waived=GATES, upper=st.none() | st.floats(-1, 1))
def test_nobody_serves_without_evidence(
    gates: list[GateResult], waived: list[GateResult], upper: float | None
) -> None:
    evidence = Evidence(verdict(*gates), waiver(*waived) if waived else None)
    decision = weigh(evidence, (), drop(upper) if upper is not None else None, POLICY, generation=1)
    names = {gate_name(one) for one in waived}
    proven = all(
        one.verdict == "pass" or (one.on_fail == "review" and gate_name(one) in names) for one in gates
    )
    assert isinstance(decision, Promoted) == (proven and (upper is None or upper <= POLICY.max_drop))
    if isinstance(decision, AwaitsReview):
        assert all(one.on_fail == "review" for one in gates if one.verdict != "pass")


def history(text: str) -> list[Generation]:
    """`A B < C`: promoted A, promoted B, rolled back, promoted C."""
    found: list[Generation] = []
    for generation, word in enumerate(text.split(), start=1):
        digest = standing(found)[-2].digest if word == "<" else word
        found.append(Generation(generation, digest, "rolled_back" if word == "<" else "promoted"))
    return found


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("", ""),
        ("A", "A"),
        ("A B", "AB"),
        ("A B <", "A"),
        ("A B C <", "AB"),
        ("A B C < <", "A"),
        ("A B < C", "AC"),
        ("A B < C <", "A"),
    ],
)
def test_rolling_back_walks_back_and_never_forward(text: str, stands: str) -> None:
    assert "".join(one.digest for one in standing(history(text))) == stands


def test_what_is_oldest_after_a_lost_database_stands_even_as_a_rollback() -> None:
    known = [Generation(4, "A", "rolled_back"), Generation(5, "B", "promoted")]
    assert standing(known) == known


@given(st.lists(st.sampled_from("ABC<"), max_size=12))
def test_the_last_that_stands_is_the_last_that_was_promoted_or_gone_back_to(words: list[str]) -> None:
    taken: list[str] = []
    for word in words:
        if word != "<" or len(standing(history(" ".join(taken)))) > 1:
            taken.append(word)
    found = history(" ".join(taken))
    assert [one.digest for one in standing(found)[-1:]] == [one.digest for one in found[-1:]]
