"""The search of one study, with trials that end as a test says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from penstock.contracts.errors import Invalid, Kind
from penstock.contracts.events import Cost
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.jobs.policy import Failure
from penstock.testing import lending
from penstock_tuner.driver import Driver
from penstock_tuner.pool.port import Ended, Reported
from penstock_tuner.search import Tried
from penstock_tuner.trials.measured import Measured

WIDTHS = {"hidden": [[width] for width in range(2, 9)]}
COST = Cost(processor_s=2.5, peak_memory=1 << 20)
Outcome = Callable[[int], Measured | Failure | str]


def measured(loss: float) -> Measured:
    metrics = {"train_loss": loss, "validation_loss": loss}
    return Measured(
        metrics=metrics, weights=f"sha256:{loss:064.0f}", epochs=3, seconds=1.0, processor_s=1.0, memory=1
    )


class Pool:
    """Ends one trial a call, the one that was started first, and counts those that were started."""

    def __init__(self, outcome: Outcome, at_once: int = 2) -> None:
        self._outcome, self._at_once = outcome, at_once
        self._running: list[int] = []
        self.started: list[int] = []

    @property
    def free(self) -> int:
        return self._at_once - len(self._running)

    def start(self, number: int, pipeline: Pipeline) -> None:
        assert self.free
        self._running.append(number)
        self.started.append(number)

    def wait(self, timeout_s: float) -> list[Reported | Ended]:
        if not self._running:
            return []
        number = self._running.pop(0)
        came = self._outcome(number)
        if isinstance(came, str):
            came = Failure(Kind.INVALID, came, "")
        if isinstance(came, Failure):
            return [Ended(number, failure=came, cost=COST)]
        return [Ended(number, measured=came)]

    def stop(self, number: int) -> None:
        raise AssertionError("nothing is stopped here")

    def close(self) -> None: ...


class Climbing(Pool):
    """Tells of each trial its loss at the third of nine epochs, before it ends or is stopped."""

    def __init__(self, losses: dict[int, float]) -> None:
        super().__init__(lambda number: measured(losses[number]))
        self._untold = dict(losses)
        self.stopped: list[int] = []

    def wait(self, timeout_s: float) -> list[Reported | Ended]:
        for number in self._running:
            if number in self._untold:
                return [Reported(number, 3, 9, self._untold.pop(number), 0.5, "auroc")]
        if self._running and self._running[0] in self.stopped:
            return [Ended(self._running.pop(0), stopped=True)]
        return super().wait(timeout_s)

    def stop(self, number: int) -> None:
        self.stopped.append(number)


def search(
    trials: Outcome | Pool, tried: tuple[Tried, ...] = (), **tuner: Any
) -> tuple[dict[str, Any], Pool, list[dict[str, Any]]]:
    """Result of a search, its pool, and what it told. `trials`: the pool, or how each of its trials ends."""
    pool, told = trials if isinstance(trials, Pool) else Pool(trials), []
    driver = Driver(
        lending.spec(tuner={"minimize": "train_loss + 4 * validation_loss", **tuner}),
        400,
        tried,
        pool,
        lambda message: told.append(dict(message)),
        began=time.monotonic(),
        looks=5,
    )
    return driver.run(), pool, told


def test_each_trial_is_told_when_it_starts_and_when_it_ends_and_the_best_is_chosen() -> None:
    result, pool, told = search(lambda number: measured(9.0 - number), budget={"trials": 4})
    assert pool.started == [0, 1, 2, 3]
    begun = [message["started"]["number"] for message in told if "started" in message]
    ended = [message["ended"]["number"] for message in told if "ended" in message]
    assert begun == ended == [0, 1, 2, 3]
    assert told[0]["started"]["choices"] == {}, "the file's own values come first"
    assert [message["best"] for message in told if "ended" in message] == [0, 1, 2, 3]
    assert (result["best"], result["looks"]) == (3, 20)
    assert result["conclusion"].startswith("trial 3 is better than your own values: 30.0000 against 45.0000")


def test_what_an_earlier_study_knows_is_asked_and_counted_and_never_chosen() -> None:
    linear = {"model.type": "linear"}
    earlier = Tried(number=-1, choices=linear, state="complete", values=(0.0,))
    space = {"model": ["linear", "mlp"]}
    result, pool, told = search(
        lambda number: measured(1.0), (earlier,), type="random", space=space, budget={"trials": 2}
    )
    assert pool.started == [0, 1]
    begun = [message["started"]["choices"] for message in told if "started" in message]
    assert begun == [{}, {"model.type": "mlp"}], "what was tried before is not tried again"
    assert (result["best"], result["looks"]) == (0, 15)


def test_values_that_are_no_better_than_the_files_are_not_taken() -> None:
    result, _, _ = search(lambda number: measured(1.0), budget={"trials": 3})
    assert result["best"] == 0
    assert result["conclusion"] == "no better than yours: keep it"


def test_a_trial_that_fails_is_its_own_end_and_no_others() -> None:
    result, pool, told = search(
        lambda number: "no memory" if number == 1 else measured(5.0 - number), budget={"trials": 4}
    )
    assert pool.started == [0, 1, 2, 3]
    failed = [message["ended"] for message in told if message.get("ended", {}).get("state") == "failed"]
    assert [(one["number"], one["failure"]) for one in failed] == [(1, "no memory")]
    assert result["best"] == 3


def test_the_best_trials_are_averaged_in_one_more_and_taken_if_that_is_better() -> None:
    def outcome(number: int) -> Measured | str:
        losses = {0: 3.0, 1: 2.0, 2: 2.5, 3: 1.5}
        if number == 1:
            return "no memory"
        return measured(losses[number]).model_copy(
            update={
                "metrics": {**measured(losses[number]).metrics, "latency_us": 400.0, "members": 2.0},
                "losses": tuple(losses[number] + group % 3 / 10 for group in range(20)),
            }
        )

    result, pool, told = search(outcome, budget={"trials": 3}, ensemble={"members": 2, "latency": "1ms"})
    assert pool.started == [0, 1, 2, 3]
    (begun,) = [m["started"] for m in told if m.get("started", {}).get("number") == 3]
    assert (begun["choices"], begun["family"]) == ({"ensemble": [2, 0]}, "ensemble")
    model = begun["overrides"]["model"]
    assert len(model["members"]) == len(model["trainers"]) == 2
    assert result["best"] == 3
    assert result["conclusion"].endswith(
        "it averages trials 2 and 0, of which 2 count: lower by 1.0000 (1.0000 to 1.0000) than trial 2 alone,"
        " and a row takes 0.40 ms; 1 of 4 trials failed, `penstock study show` says why"
    )


@pytest.mark.parametrize(
    ("section", "last", "said"),
    [
        ({"members": 2}, 5.0, "; the average of trials 1 and 0 is no better"),
        ({"members": 2, "latency": "0.5ms"}, None, "trial 1 is better than your own values: 50.0000 against"),
    ],
)
def test_an_ensemble_that_is_worse_or_too_slow_is_not_taken(
    section: dict[str, Any], last: float | None, said: str
) -> None:
    def outcome(number: int) -> Measured:
        made = measured({0: 3.0, 1: 2.0}.get(number, last or 0.0))
        return made.model_copy(update={"metrics": {**made.metrics, "latency_us": 300.0}})

    result, pool, _ = search(outcome, budget={"trials": 2}, ensemble=section, minimize="25 * train_loss")
    assert pool.started == ([0, 1, 2] if last else [0, 1]), "two members would take 0.6 ms"
    assert result["best"] == 1
    assert said in result["conclusion"]


def test_an_ensemble_of_the_same_trials_is_not_made_again() -> None:
    before = (
        Tried(number=0, choices={}, state="complete", values=(3.0,)),
        Tried(number=1, choices={"model.type": "linear"}, state="complete", values=(2.0,)),
        Tried(number=2, choices={"ensemble": [1, 0]}, state="complete", values=(2.5,)),
    )
    result, pool, _ = search(lambda number: measured(9.0), before, budget={"trials": 3}, ensemble={})
    assert pool.started == []
    assert result["best"] == 1


def test_a_trial_whose_node_died_is_begun_again() -> None:
    deaths = [Failure(Kind.UNAVAILABLE, "the Ray node that it ran on died", "")] * 2
    _, pool, told = search(
        lambda number: deaths.pop() if number == 1 and deaths else measured(5.0 - number),
        budget={"trials": 3},
    )
    assert sorted(pool.started) == [0, 1, 1, 1, 2]
    assert [message["ended"]["state"] for message in told if "ended" in message] == ["complete"] * 3


def test_a_space_in_which_every_trial_fails_ends_in_a_sentence() -> None:
    with pytest.raises(Invalid, match="none of 3 trials ended well; the last failure: one class"):
        search(lambda number: "one class", budget={"trials": 3})


def test_what_ran_is_repeated_with_the_same_values_and_what_ended_is_not() -> None:
    _, _, told = search(lambda number: measured(5.0 - number), budget={"trials": 3})
    choices = {m["started"]["number"]: m["started"]["choices"] for m in told if "started" in m}
    before = (
        Tried(number=0, choices={}, state="complete", values=(255.0,)),
        Tried(number=1, choices=choices[1], state="running", values=None),
    )
    result, pool, told = search(lambda number: measured(5.0 - number), before, budget={"trials": 3})
    assert pool.started == [1, 2]
    assert {m["started"]["number"]: m["started"]["choices"] for m in told if "started" in m} == {
        1: choices[1],
        2: choices[2],
    }
    assert result["best"] == 2


def test_what_a_failed_trial_cost_is_told() -> None:
    _, _, told = search(lambda number: "no memory" if number else measured(1.0), budget={"trials": 2})
    (failed,) = [m["ended"] for m in told if m.get("ended", {}).get("state") == "failed"]
    assert (failed["processor_s"], failed["memory"]) == (COST.processor_s, COST.peak_memory)


def test_a_study_that_goes_on_only_to_end_says_why_its_trials_failed() -> None:
    failed = Tried(number=0, choices={}, state="failed")
    driver = Driver(
        lending.spec(tuner={"budget": {"trials": 1}}),
        400,
        [failed],
        Pool(lambda number: "unused"),
        lambda message: None,
        began=time.monotonic(),
        looks=1,
        last_failure="one class",
    )
    with pytest.raises(Invalid, match="the last failure: one class"):
        driver.run()


def test_a_trial_behind_at_a_rung_is_stopped_and_the_others_go_on() -> None:
    pool = Climbing({0: 0.9, 1: 0.5, 2: 0.6, 3: 0.4})
    result, _, told = search(pool, budget={"trials": 4}, pruner="asha", space={"model": {"mlp": WIDTHS}})
    assert pool.stopped == [2]
    rungs = {m["climbed"]["number"]: m["climbed"]["rungs"] for m in told if "climbed" in m}
    assert rungs == {0: (0.9, 0.9), 1: (0.5, 0.5), 2: (0.6, 0.6), 3: (0.4, 0.4)}
    ends = {m["ended"]["number"]: m["ended"]["state"] for m in told if "ended" in m}
    assert ends == {0: "complete", 1: "complete", 2: "pruned", 3: "complete"}
    assert result["best"] == 3
