"""The audit as a whole, on rows made for the purpose: all three tasks, tiny groups, one class,
several rows an entity.
"""

from __future__ import annotations

import numpy as np
import pytest

from penstock.contracts.pipeline import Audit
from penstock.measures.groups import compare_not_stated, divide
from penstock.measures.scores import Codes, Scores
from penstock_ethics_audit.audit import Findings, audit

N = 1200


def made(seed: int = 0, gap: float = 0.0, n: int = N) -> tuple[Scores, list[str]]:
    """Two groups; in `f` positives are found less often by `gap`."""
    generator = np.random.default_rng(seed)
    sex = np.where(generator.random(n) < 0.4, "f", "m")
    truth = generator.integers(0, 2, n)
    found = np.where(truth == 1, 0.75 - gap * (sex == "f"), 0.15)
    decision = (generator.random(n) < found).astype(np.int64)
    p = np.clip(0.5 + (decision - 0.5) * generator.uniform(0.2, 0.9, n), 0.01, 0.99)
    return Scores(
        "binary", truth.astype(float), np.arange(n), ("no", "yes"), np.stack([1 - p, p], axis=1), decision
    ), sex.tolist()


def spec(**gate: object) -> Audit:
    gates = [gate] if gate else [{"metric": "equalized_odds_difference", "by": "sex", "at_most": 0.1}]
    return Audit.model_validate({"groups": {"sex": {"min_rows": 30}}, "gates": gates, "resamples": 200})


def run(scores: Scores, sex: list[str] | list[str | None], asked: Audit, seed: int = 1) -> Findings:
    return audit(scores, [divide("sex", sex)], asked, seed)


def test_an_unfair_model_fails_and_a_fair_one_passes() -> None:
    assert run(*made(gap=0.35), spec()).verdict == "fail"
    assert run(*made(gap=0.0, n=12_000), spec()).verdict == "pass"


def test_the_same_seed_gives_the_same_findings_and_one_more_group_changes_no_other_number() -> None:
    scores, sex = made()
    once = run(scores, sex, spec())
    assert run(scores, sex, spec()) == once
    more = Audit.model_validate(
        {**spec().model_dump(), "groups": {"sex": {"min_rows": 30}, "side": {"min_rows": 30}}}
    )
    beside = audit(scores, [divide("sex", sex), divide("side", ["l", "r"] * (N // 2))], more, 1)
    assert (beside.performance, beside.groupings[0]) == (once.performance, once.groupings[0])


def test_intervals_hold_their_estimates() -> None:
    found = run(*made(gap=0.1), spec())
    values = [*found.performance.values(), *found.groupings[0].disparities.values()]
    values += [rate.value for group in found.groupings[0].groups for rate in group.rates]
    assert all(value is not None and value.lower <= value.estimate <= value.upper for value in values)


def test_a_group_of_one_person_is_inconclusive_and_named() -> None:
    scores, sex = made()
    sex[0] = "x"
    found = run(scores, sex, spec())
    assert found.verdict == "inconclusive"
    assert "sex = x" in found.gates[0].reason
    assert found.gates[0].value is None  # one of its cells is empty: there is nothing to compare


def test_a_group_of_one_class_has_no_rate_and_no_auroc_but_an_accuracy() -> None:
    scores, sex = made()
    only = [
        ("z" if label == 1 and group == "f" else group)
        for label, group in zip(scores.labels, sex, strict=True)
    ]
    z = next(group for group in run(scores, only, spec()).groupings[0].groups if group.group == "z")
    assert z.cells["no"] == 0
    assert (z.rate("false_positive", "yes"), z.performance["auroc"]) == (None, None)
    assert z.rate("true_positive", "yes") is not None
    assert z.performance["accuracy"] is not None


def test_labels_of_one_class_only_do_not_crash() -> None:
    scores, sex = made()
    positive = np.flatnonzero(scores.labels == 1)
    kept = scores.take(positive)
    alone = Scores(
        "binary", kept.labels, np.arange(len(positive)), kept.classes, kept.probabilities, kept.decisions
    )
    found = run(alone, [sex[row] for row in positive], spec(metric="auroc", at_least=0.7))
    assert (found.verdict, found.gates[0].reason) == ("inconclusive", "auroc is not defined on these rows")


def test_a_single_group_is_inconclusive() -> None:
    scores, _ = made()
    found = run(scores, ["f"] * N, spec())
    assert (found.verdict, found.gates[0].reason) == (
        "inconclusive",
        "there are not two groups of sex to compare",
    )


def test_an_attribute_that_nobody_states_is_inconclusive() -> None:
    scores, _ = made()
    grouping = divide("sex", [None] * N)
    found = audit(scores, [compare_not_stated(grouping, scores.labels.astype(int), 2, 10_000)], spec(), 1)
    assert found.verdict == "inconclusive"
    assert found.groupings[0].not_stated == N
    assert found.groupings[0].unstated == found.labels


def test_several_classes() -> None:
    generator = np.random.default_rng(5)
    p = generator.dirichlet(np.ones(3), N)
    truth = np.array([generator.choice(3, p=row) for row in p])
    scores = Scores("multiclass", truth.astype(float), np.arange(N), ("a", "b", "c"), p, p.argmax(axis=1))
    found = run(scores, made()[1], spec(metric="accuracy", at_least=0.4))
    assert found.verdict == "pass"
    assert {rate.label for rate in found.groupings[0].groups[0].rates} == {"a", "b", "c"}
    assert 0 <= found.groupings[0].disparities["equalized_odds_difference"].estimate < 0.2  # type: ignore[union-attr]


def test_a_regression() -> None:
    generator = np.random.default_rng(6)
    y = generator.normal(100, 20, N)
    scores = Scores("regression", y, np.arange(N), values=y + generator.normal(0, 5, N))
    found = run(scores, made()[1], spec(metric="rmse", at_most=6.0))
    assert found.verdict == "pass"
    assert set(found.performance) == {"rmse", "mae", "r2", "mean_error"}
    assert found.groupings[0].disparities == {}
    assert found.groupings[0].groups[0].performance["mae"] is not None


def test_an_interval_is_measured_over_all_rows_and_by_group() -> None:
    """It holds four of five true values, of one group all and of the other fewer."""
    generator = np.random.default_rng(6)
    y, sex = generator.normal(100, 20, N), made()[1]
    half = np.where(np.array(sex) == sex[0], 50.0, 5.0 * 0.9)
    ends = np.stack([100 - half * 2, 100 + half * 2], axis=1)
    scores = Scores("regression", y, np.arange(N), values=np.full(N, 100.0), intervals=ends)
    found = run(scores, sex, spec(metric="coverage", at_least=0.95))
    coverage = found.performance["coverage"]
    assert coverage is not None
    assert coverage.estimate == pytest.approx(np.mean(np.abs(y - 100) <= half * 2))
    assert found.verdict == "fail"
    by_group = [group.performance["coverage"] for group in found.groupings[0].groups]
    assert max(one.estimate for one in by_group if one) > 0.99
    assert min(one.estimate for one in by_group if one) < 0.6
    assert found.performance["interval_width"] is not None


def test_repeated_rows_of_an_entity_do_not_make_the_audit_surer() -> None:
    """Each row ten times, as one entity: entities are drawn, so the interval stays as wide as it was."""
    scores, sex = made(n=600)
    ten: Codes = np.repeat(np.arange(600), 10)
    repeated = Scores(
        "binary", scores.labels[ten], ten, scores.classes, scores.probabilities[ten], scores.decisions[ten]
    )  # type: ignore[index]
    one = run(scores, sex, spec()).performance["accuracy"]
    many = run(repeated, [sex[row] for row in ten], spec()).performance["accuracy"]
    assert one is not None
    assert many is not None
    assert many.upper - many.lower == pytest.approx(one.upper - one.lower, rel=0.2)


def test_thin_groups_do_not_hide_a_disparity_that_the_others_prove() -> None:
    scores, sex = made(gap=0.35)
    for row in range(5):
        sex[row] = "x"
    found = run(scores, sex, spec())
    assert found.verdict == "fail"
    assert found.gates[0].reason.startswith("between the groups with enough rows, the whole interval")
    assert found.groupings[0].thin
    fair = run(*made(gap=0.0, n=12_000), spec())
    assert (fair.verdict, fair.groupings[0].thin, fair.groupings[0].proven) == ("pass", (), {})


def test_a_pass_needs_every_group() -> None:
    scores, sex = made(gap=0.0, n=12_000)
    for row in range(5):
        sex[row] = "x"
    assert run(scores, sex, spec()).verdict == "inconclusive"


def test_each_notion_asks_for_its_own_cells_only() -> None:
    """Group `z` has positives alone: enough for selection and for opportunity, not for odds."""
    scores, sex = made()
    only = [
        "z" if label == 1 and group == "f" else group for label, group in zip(scores.labels, sex, strict=True)
    ]
    limit = {"by": "sex", "at_most": 1.0}
    verdicts = {
        name: run(scores, only, spec(metric=name, **limit)).verdict
        for name in ("demographic_parity_difference", "equalized_odds_difference")
    }
    assert verdicts == {
        "demographic_parity_difference": "pass",
        "equalized_odds_difference": "inconclusive",
    }


def test_a_rate_of_four_rows_is_not_sure_of_itself() -> None:
    scores, sex = made()
    few = [group if group == "m" or row > 40 else "x" for row, group in enumerate(sex)]
    x = next(group for group in run(scores, few, spec()).groupings[0].groups if group.group == "x")
    rate = x.rate("true_positive", "yes")
    assert rate is not None
    assert rate.upper - rate.lower > 0.3
    assert x.performance["accuracy"] is not None
    assert x.performance["accuracy"].lower < x.performance["accuracy"].estimate


def test_groups_without_a_single_miss_have_a_spread_between_them() -> None:
    """Resampled, 40 hits of 40 rows are 40 hits each time, and two such groups were equal for sure."""
    n = 160
    truth, sex = np.arange(n) % 2, ["f" if row // 2 % 2 else "m" for row in range(n)]
    p = np.where(truth == 1, 0.9, 0.1)
    scores = Scores(
        "binary", truth.astype(float), np.arange(n), ("no", "yes"), np.stack([1 - p, p], axis=1), truth
    )
    found = run(scores, sex, spec()).groupings[0].disparities["equalized_odds_difference"]
    assert found is not None
    assert found.estimate == 0
    assert 0.04 < found.upper < 0.2
