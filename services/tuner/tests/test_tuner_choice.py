"""The objectives of a trial, the trial that is taken, those that are stopped, those that are known."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.events import StudyReference
from penstock.contracts.load import read
from penstock.contracts.pipeline import Pipeline
from penstock.testing import lending
from penstock_tuner.search import (
    Tried,
    best,
    climbed,
    front,
    known,
    prunes,
    rule,
    same_split,
    space_of,
    value,
)


def pipeline(tuner: str = "{}", more: str = "") -> Pipeline:
    return read(f"{lending.PIPELINE_TEXT}{more}\ntuner: {tuner}\n")


TWO = "objectives: {quality: 1 - auroc, speed: latency_us}"


def tried(*values: tuple[float, ...] | None) -> list[Tried]:
    """Trials with these objectives; None: failed."""
    return [
        Tried(number, {"model.type": "mlp"}, "complete" if one else "failed", one)
        for number, one in enumerate(values)
    ]


# -- values --------------------------------------------------------------------------------------------


def test_objectives_are_formulas_over_what_was_measured() -> None:
    measured = {"train_loss": 0.3, "validation_loss": 0.5, "auroc": 0.75, "latency_us": 60.0}
    assert value(pipeline().tuner, measured) == pytest.approx((25.3,))
    several = pipeline(f"{{{TWO}, choose: {{minimize: speed}}}}").tuner
    assert value(several, measured) == pytest.approx((0.25, 60.0))


@pytest.mark.parametrize(
    "wrong", [{}, {"train_loss": 1.0}, {"train_loss": 1.0, "validation_loss": float("nan")}]
)
def test_an_objective_without_a_value_is_a_sentence(wrong: dict[str, float]) -> None:
    with pytest.raises(Invalid, match=r"`train_loss \+ 50 \* validation_loss` has no value: `\w+_loss` is"):
        value(pipeline().tuner, wrong)


# -- the best ------------------------------------------------------------------------------------------


def test_the_best_is_the_lowest_and_of_equal_ones_the_first() -> None:
    tuner = pipeline().tuner
    assert best(tuner, tried((2.0,), (1.0,), None, (1.0,))).number == 1  # type: ignore[union-attr]
    assert best(tuner, tried((1.0,), (1.0,))).number == 0  # type: ignore[union-attr]
    assert best(tuner, tried(None)) is None
    assert best(tuner, []) is None


@pytest.mark.parametrize(
    ("choose", "taken", "words"),
    [
        ("{minimize: quality}", 3, "the least 1 - auroc"),
        (
            "{minimize: quality, at_most: {speed: 55}}",
            1,
            "the least 1 - auroc among those with latency_us at most 55",
        ),
        ("{minimize: quality, at_most: {speed: 5}}", None, "the least 1 - auroc among those with latency_us"),
        ("{type: knee}", 1, "the nearest to the best of 1 - auroc, latency_us at once"),
    ],
)
def test_the_rule_chooses_on_the_front(choose: str, taken: int | None, words: str) -> None:
    tuner = pipeline(f"{{{TWO}, choose: {choose}}}").tuner
    trials = tried((0.30, 40.0), (0.22, 50.0), (0.25, 60.0), (0.20, 90.0), None)
    assert [one.number for one in front(trials)] == [0, 1, 3]
    found = best(tuner, trials)
    assert (found.number if found else None) == taken
    assert rule(tuner).startswith(words)


def test_the_rule_of_one_objective_in_words() -> None:
    assert rule(pipeline().tuner) == "the least train_loss + 50 * validation_loss"


def test_a_rule_of_long_formulas_fits_into_the_wish_for_a_run() -> None:
    formula = " + ".join(["validation_loss"] * 11)
    named = ", ".join(f"{name}: {formula}" for name in ("one", "two", "three", "four"))
    said = rule(pipeline(f"{{objectives: {{{named}}}, choose: {{type: knee}}}}").tuner)
    reference: dict[str, Any] = {
        "study_id": "01A",
        "trial": 1,
        "weights": f"sha256:{0:064}",
        "trials": 2,
        "looks": 2,
    }
    assert StudyReference(**reference, rule=said).rule.endswith("…")


# -- pruners -------------------------------------------------------------------------------------------

ASHA, MEDIAN = "{pruner: asha}", "{pruner: {type: median, rungs: 4, trials: 2}}"


def rungs(tuner: str, losses: list[float], epochs: int) -> tuple[float, ...]:
    found: tuple[float, ...] = ()
    for epoch, loss in enumerate(losses, start=1):
        found = climbed(pipeline(tuner).tuner, found, epoch, epochs, loss)
    return found


def test_rungs_are_shares_of_the_planned_epochs() -> None:
    losses = [1 - epoch / 100 for epoch in range(1, 31)]
    assert rungs(ASHA, losses, 30) == (losses[3], losses[9])  # a ninth and a third, rounded up
    assert rungs(ASHA, losses[:5], 300) == ()
    assert rungs(ASHA, losses[:2], 2) == (losses[0], losses[0])
    assert rungs(MEDIAN, losses, 30) == (losses[5], losses[11], losses[17], losses[23])
    assert rungs("{}", losses, 30) == ()


def at(*losses: float | tuple[float, ...], family: str = "mlp") -> list[Tried]:
    """Trials with these losses at the first rung, or at several."""
    return [
        Tried(number, {"model.type": family}, "running", rungs=one if isinstance(one, tuple) else (one,))
        for number, one in enumerate(losses, start=1)
    ]


def stopped(tuner: str, trials: list[Tried]) -> list[int]:
    return [one.number for one in trials if prunes(pipeline(tuner).tuner, trials, one.number)]


def test_asha_keeps_one_of_three() -> None:
    assert stopped(ASHA, at(0.5)) == []
    assert stopped(ASHA, at(0.5, 0.6)) == [2]
    assert stopped(ASHA, at(0.5, 0.6, 0.4, 0.7, 0.8, 0.9)) == [2, 4, 5, 6]
    assert stopped(ASHA, at((0.5, 0.3), (0.9, 0.4), 0.6)) == [2, 3]
    assert stopped("{}", at(0.5, 0.6)) == []


def test_the_median_rule_stops_the_worse_half_of_enough() -> None:
    assert stopped(MEDIAN, at(0.5, 0.6)) == []
    assert stopped(MEDIAN, at(0.5, 0.6, 0.4, 0.7)) == [2, 4]


def test_families_are_compared_each_for_itself_and_the_files_own_is_never_stopped() -> None:
    assert stopped(ASHA, [*at(0.5), Tried(2, {"model.type": "linear"}, "running", rungs=(0.6,))]) == []
    own = Tried(0, {}, "running", rungs=(0.9,))
    assert not prunes(pipeline(ASHA).tuner, [own, *at(0.5, 0.6)], 0)


def test_a_trial_that_diverged_is_stopped() -> None:
    assert stopped(ASHA, at(float("nan"))) == [1]


# -- a warm start --------------------------------------------------------------------------------------

SPACE = "{space: {model: {mlp: {dropout: {low: 0, high: 0.5}}, linear: {}}}}"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("split: {by: time}", "split"),
        ("split: {by: applicant, parts: {train: 0.5, validation: 0.2, audit: 0.3}}", "split"),
        ("training: {seed: 8}", "training.seed"),
    ],
)
def test_a_study_of_another_split_is_no_start(more: str, what: str) -> None:
    with pytest.raises(Conflict, match=f"another `{what}`: its trials were chosen on rows"):
        same_split(pipeline(), pipeline(more=more))


def test_a_study_that_minimised_something_else_is_no_start() -> None:
    with pytest.raises(Conflict, match="minimised something else"):
        same_split(pipeline(), pipeline("{minimize: validation_loss}"))


def test_a_study_of_the_same_split_may_have_another_model_and_space() -> None:
    same_split(pipeline(), pipeline(SPACE, more="split: {by: applicant}\nmodel: {type: linear}"))


def test_trials_that_lie_in_the_space_are_known_and_never_the_best() -> None:
    made = pipeline(SPACE)
    inside: dict[str, Any] = {"model.type": "mlp", "mlp.model.dropout": 0.25}
    earlier = [
        Tried(0, {}, "complete", (0.5,)),
        Tried(1, inside, "complete", (0.1,)),
        Tried(2, {**inside, "mlp.model.dropout": 0.6}, "complete", (0.1,)),
        Tried(3, {**inside, "mlp.model.hidden": [3]}, "complete", (0.1,)),
        Tried(4, {"model.type": "linear"}, "failed"),
        Tried(5, inside, "running"),
    ]
    found = known(space_of(made), earlier)
    assert [(one.number, one.choices) for one in found] == [(-1, inside), (-2, {"model.type": "linear"})]
    taken = best(made.tuner, [*found, Tried(0, {}, "complete", (0.9,))])
    assert taken is not None
    assert taken.number == 0
