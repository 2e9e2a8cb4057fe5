"""The steps follow from what is served, what is loaded and what is promoted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_inference.serving.reconcile import Deploy, Drop, Heal, Restore, Step, Trim, plan

NAMES = st.sampled_from(["loans", "income", "churn"])
SERVED = st.dictionaries(NAMES, st.integers(1, 3))
LOADED = st.dictionaries(
    st.sampled_from(["loans", "income", "churn", "loans.candidate.x"]),
    st.frozensets(st.integers(1, 3), min_size=1),
)


@pytest.mark.parametrize(
    ("served", "loaded", "silent", "promoted", "steps"),
    [
        ({"loans": 2}, {"loans": {2}}, [], [], []),
        ({"loans": 2}, {}, [], [], [Restore("loans", 2)]),
        ({"loans": 2}, {"loans": {1}}, [], [], [Restore("loans", 2)]),
        ({"loans": 2}, {"loans": {2}}, ["loans"], [], [Heal("loans", 2)]),
        ({"loans": 2}, {"loans": {2, 3}}, [], [], [Trim("loans", 2)]),
        ({"loans": 2}, {"loans": {2, 3}}, [], ["loans"], [Deploy("loans")]),
        (
            {"loans": 2},
            {"loans": {2}, "loans.candidate.x": {3}},
            [],
            ["loans"],
            [Drop("loans.candidate.x"), Deploy("loans")],
        ),
        ({}, {"loans": {2}}, [], [], [Drop("loans")]),
        ({}, {"loans": {2}}, [], ["loans"], [Deploy("loans")]),
    ],
)
def test_each_difference_has_its_repair(
    served: dict[str, int],
    loaded: dict[str, set[int]],
    silent: list[str],
    promoted: list[str],
    steps: list[Step],
) -> None:
    assert (
        plan(served, {name: frozenset(versions) for name, versions in loaded.items()}, silent, promoted)
        == steps
    )


def test_what_cannot_be_verified_for_now_stays_loaded() -> None:
    loaded = {"loans": frozenset({2}), "loans.candidate.x": frozenset({3}), "gone": frozenset({1})}
    assert plan({}, loaded, [], [], ["loans"]) == [Drop("gone"), Drop("loans.candidate.x")]


@given(SERVED, LOADED, st.frozensets(NAMES), st.frozensets(NAMES))
def test_what_is_served_is_never_dropped_and_clients_come_first(
    served: dict[str, int],
    loaded: dict[str, frozenset[int]],
    silent: frozenset[str],
    promoted: frozenset[str],
) -> None:
    steps = plan(served, loaded, silent, promoted)
    assert not {step.model for step in steps if isinstance(step, Drop)} & served.keys()
    assert len(steps) == len(set(steps))
    kinds = [type(step) for step in steps]
    assert kinds == sorted(kinds, key=lambda kind: (kind is Drop) + 2 * (kind is Deploy))
    assert {step.pipeline for step in steps if isinstance(step, Deploy)} == promoted
