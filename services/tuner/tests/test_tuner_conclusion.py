"""The sentence at a study's end: whether the trial that was chosen is proven better."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_tuner.choice import concluded, lower_by
from penstock_tuner.search import Tried


def tried(number: int, *losses: float) -> Tried:
    return Tried(number, {}, "complete", (float(np.mean(losses)),), losses)


def test_a_trial_that_is_better_on_nearly_every_group_is_proven_better() -> None:
    own = [0.5 + 0.01 * at for at in range(20)]
    better = [loss - 0.1 - 0.01 * (at % 2) for at, loss in enumerate(own)]
    assert concluded(tried(3, *better), tried(0, *own)) == (
        "trial 3 is better than your own values: 0.4900 against 0.5950; "
        "its validation loss is lower by 0.1050 (0.1026 to 0.1074)"
    )


def test_a_trial_that_is_better_on_some_groups_is_not() -> None:
    own = [0.5] * 20
    other = [0.5 + (0.1 if at % 2 else -0.12) for at in range(20)]
    assert concluded(tried(3, *other), tried(0, *own)) == (
        "trial 3 is the best, and not proven better than your own values: 0.4900 against 0.5000; "
        "its validation loss is lower by 0.0100 (-0.0428 to 0.0628)"
    )


def test_few_groups_prove_nothing_and_give_no_interval() -> None:
    assert concluded(tried(3, 0.4), tried(0, 0.5)) == (
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
