"""A study's budget: when it is spent, what is asked for in its place, what an extension adds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline.tuner import Budget
from penstock_tuner.budget import HOPELESS, over
from penstock_tuner.search import Tried
from penstock_tuner.section import asked_for, extended, objectives, parsed


def trials(*states: str) -> list[Tried]:
    return [
        Tried(number=number, choices={}, state=state, values=(1.0,) if state == "complete" else None)
        for number, state in enumerate(states)
    ]


DONE = trials(*["complete"] * 3)


@pytest.mark.parametrize(
    ("budget", "tried", "best", "spent_s", "why"),
    [
        (Budget(trials=4), DONE, 0, 10.0, None),
        (Budget(trials=3), DONE, 0, 10.0, "all 3 trials were started"),
        (Budget(trials=3), trials("complete", "running", "running"), 0, 10.0, "all 3 trials were started"),
        (Budget(trials=4, time=timedelta(minutes=1)), DONE, 0, 61.0, "its 1m were over"),
        (Budget(trials=4), DONE, 0, 6000.0, None),
        (Budget(), DONE, 0, 601.0, "its 10m were over"),
        (Budget(patience=2), DONE, 0, 10.0, "2 trials in a row brought nothing better"),
        (Budget(patience=2), DONE, 1, 10.0, None),
        (Budget(patience=2), trials("complete", "running", "running"), 0, 10.0, None),
        (Budget(), trials(*["failed"] * HOPELESS), None, 10.0, f"the first {HOPELESS} trials all failed"),
        (Budget(), trials(*["failed"] * HOPELESS, "complete"), HOPELESS, 10.0, None),
    ],
)
def test_a_search_is_over_when_the_first_of_its_budgets_is_spent(
    budget: Budget, tried: list[Tried], best: int | None, spent_s: float, why: str | None
) -> None:
    assert over(budget, tried, best, spent_s) == why


def test_an_extension_of_a_study_without_hope_tries_anew() -> None:
    failed = trials(*["failed"] * HOPELESS)
    assert over(Budget(trials=20), failed, None, 10.0, first=HOPELESS) is None
    again = trials(*["failed"] * 2 * HOPELESS)
    assert over(Budget(trials=30), again, None, 10.0, first=HOPELESS) == "the first 10 trials all failed"


def test_what_is_asked_for_takes_the_place_of_the_files_budget_and_of_nothing_else() -> None:
    section = {"type": "random", "budget": {"trials": 40, "patience": 9}}
    asked = parsed(asked_for(section, 8, 90.0))
    assert (asked.budget.trials, asked.budget.longest) == (8, timedelta(seconds=90))
    assert (asked.type, asked.budget.patience) == ("random", 9)
    assert asked_for(section, 0, 0.0) == section
    with pytest.raises(Invalid, match="trials"):
        asked_for(section, -1, 0.0)


def test_an_extension_counts_from_what_was_spent() -> None:
    section = {"type": "random", "budget": {"trials": 40, "time": "10m", "patience": 9, "memory": "2GB"}}
    longer = parsed(extended(section, tried=12, spent_s=100.0, trials=5, time_s=0.0)).budget
    assert (longer.trials, longer.longest, longer.memory) == (17, None, 2_000_000_000)
    assert longer.patience is None, "it ended the study: kept, the extension would be over at once"
    longer = parsed(extended(section, tried=12, spent_s=100.0, trials=0, time_s=60.0)).budget
    assert (longer.trials, longer.longest) == (None, timedelta(seconds=160))
    with pytest.raises(Invalid, match="nothing"):
        extended(section, tried=12, spent_s=100.0, trials=0, time_s=0.0)


def test_objectives_are_named_or_are_the_formula() -> None:
    assert objectives(parsed(None)) == ["train_loss + 50 * validation_loss"]
    named = {"objectives": {"quality": "1 - auroc", "speed": "latency_us"}, "choose": {"type": "knee"}}
    assert objectives(parsed(named)) == ["quality", "speed"]
