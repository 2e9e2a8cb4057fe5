"""The sentence at a study's end: whether the trial that was chosen is proven better."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.contracts.load import read
from penstock.contracts.rules.tuner import passed_over
from penstock_tuner import search
from penstock_tuner.choice import chosen, concluded, lower_by
from penstock_tuner.search import Tried

PIPELINE = """\
version: 1
pipeline: loans
entities: {person: {key: id}}
sources:
  events:
    entity: person
    id: id
    timestamp: at
    fields:
      income: {type: number}
      sex: {type: category, protected: true}
      bad: {type: boolean}
targets: {bad: {from: events.bad, type: binary}}
audit: {groups: {sex: {}}, gates: []}
promotion: {without_gates: allowed}
"""


def tried(number: int, *losses: float) -> Tried:
    return Tried(number, {}, "complete", (float(np.mean(losses)),), losses)


def test_a_trial_that_is_better_on_nearly_every_group_is_proven_better() -> None:
    own = [0.5 + 0.01 * at for at in range(20)]
    better = [loss - 0.1 - 0.01 * (at % 2) for at, loss in enumerate(own)]
    assert concluded(tried(3, *better), tried(0, *own), 1) == (
        "trial 3 is better than your own values: 0.4900 against 0.5950; "
        "its validation loss is lower by 0.1050 (0.1026 to 0.1074)"
    )


def test_a_trial_that_is_better_on_some_groups_is_not() -> None:
    own = [0.5] * 20
    other = [0.5 + (0.1 if at % 2 else -0.12) for at in range(20)]
    assert concluded(tried(3, *other), tried(0, *own), 1) == (
        "trial 3 is the best, and not proven better than your own values: 0.4900 against 0.5000; "
        "its validation loss is lower by 0.0100 (-0.0428 to 0.0628)"
    )


def test_few_groups_prove_nothing_and_give_no_interval() -> None:
    assert concluded(tried(3, 0.4), tried(0, 0.5), 1) == (
        "trial 3 is better than your own values: 0.4000 against 0.5000"
    )


def test_the_interval_holds_the_true_difference_in_19_of_20_studies() -> None:
    random = np.random.default_rng(7)
    held = []
    for _ in range(2000):
        own = random.gamma(2.0, 0.2, 50)
        found = own - 0.05 - random.gamma(2.0, 0.02, 50)
        _, least, most = lower_by(found, own) or pytest.fail("no interval")
        held.append(least <= 0.09 <= most)
    assert 0.93 <= np.mean(held) <= 0.97


def test_the_best_of_many_equal_trials_is_called_better_in_one_study_of_twenty() -> None:
    random = np.random.default_rng(7)
    called = {1: 0, 20: 0}
    for _ in range(1000):
        own, others = random.normal(0.5, 0.1, 30), random.normal(0.5, 0.1, (20, 30))
        found = min(others, key=np.mean)
        for among in called:
            _, least, _ = lower_by(found, own, among) or pytest.fail("no interval")
            called[among] += least > 0
    assert called[20] <= 50
    assert called[1] > 100


def test_the_sentence_says_of_how_many_it_is_the_best() -> None:
    own = [0.5 + 0.01 * at for at in range(20)]
    better = [loss - 0.1 - 0.01 * (at % 2) for at, loss in enumerate(own)]
    said = concluded(tried(3, *better), tried(0, *own), 6)
    assert "is better than your own values" in said
    assert said.endswith("to 0.1084, as the best of 6)")


def test_failed_trials_are_counted_in_the_conclusion() -> None:
    pipeline = read(PIPELINE, "pipeline.yaml")
    done = [tried(0, *[0.5] * 20), tried(1, *[0.4] * 20)]
    failed = Tried(number=2, choices={"model.type": "mlp"}, state="failed", values=None)
    for among, said in ((done, False), ([*done, failed], True)):
        found = chosen(pipeline.tuner, search.space_of(pipeline), among, "it broke", looks=1, passed={})
        assert ("; 1 of 3 trials failed, `penstock study show` says why" in found["conclusion"]) == said


def test_a_family_that_cannot_do_what_the_file_asks_is_named() -> None:
    asked = PIPELINE + "trainer: {fairness: {notion: equalized_odds, by: sex}}\n"
    passed = passed_over(read(asked, "pipeline.yaml"))
    assert [*passed] == ["boosted_trees"]
    assert "fairness" in passed["boosted_trees"]
    assert passed_over(read(PIPELINE, "pipeline.yaml")) == {}
    named = asked + "tuner: {space: {model: [mlp, linear]}}\n"
    assert passed_over(read(named, "pipeline.yaml")) == {}
    pipeline = read(asked, "pipeline.yaml")
    done = [tried(0, *[0.5] * 20), tried(1, *[0.4] * 20)]
    found = chosen(pipeline.tuner, search.space_of(pipeline), done, "", looks=1, passed=passed)
    assert f"; `boosted_trees` was not tried: {passed['boosted_trees']}" in found["conclusion"]
