"""Searches ask inside the space, for runs that the trainer takes, and the same for the same rows."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.errors import Invalid
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rules import problems
from penstock.contracts.space import Between, Options, Space
from penstock.testing import lending
from penstock_tuner.search import Tried, ask, front, importance, space_of
from penstock_tuner.search.ask import SEARCHES
from penstock_tuner.search.front import crowding, ranks
from penstock_tuner.search.genes import mutated

OPTUNA = re.compile(r"^\s*(import|from) optuna", re.MULTILINE)
ROOT = Path(__file__).resolve().parents[3]
SEVERAL = "objectives: {quality: 1 - auroc, speed: latency_us}, choose: {type: knee}"
SEARCHED = [
    "{type: tpe}",
    f"{{type: tpe, {SEVERAL}}}",
    "{type: random}",
    f"{{type: genetic, population: 4, {SEVERAL}}}",
    "{type: evolution, population: 4}",
]
SPACES = [
    "",
    ", space: {model: [mlp, tabm], trainer: {optimizer: {adamw: {}, sgd: {momentum: {low: 0, high: 0.9}}}}}",
    ", space: {model: {mlp: {hidden: [[8], [8, 8]], dropout: {low: 0, high: 0.5}}, boosted_trees: {}}}",
    ", space: {features: {income: {scale: [standard, none]}, purpose: {encode: [one_hot, embedding]}}}",
]


def spec(tuner: str) -> dict[str, Any]:
    features = "features: {income: {from: applications.income}, purpose: {from: applications.purpose}}"
    return lending.read(f"{lending.PIPELINE_TEXT}{features}\ntuner: {tuner}\n")


def pipeline(tuner: str) -> Pipeline:
    return Pipeline.model_validate(spec(tuner))


def history(space: Space, seed: int, size: int, objectives: int) -> list[Tried]:
    """Trials in every state, drawn from the space."""
    luck = random.Random(seed)
    found = [Tried(0, {}, "complete", (1.0,) * objectives)]
    for number in range(1, size):
        choices: dict[str, Any] = {}
        for parameter in space.asked(choices):
            domain = parameter.domain
            choices[parameter.name] = (
                luck.choice(domain.values)
                if isinstance(domain, Options)
                else domain.number(luck.uniform(domain.low, domain.high))
            )
        state = luck.choice(["complete", "complete", "complete", "running", "failed", "pruned"])
        values = tuple(luck.random() for _ in range(objectives)) if state == "complete" else None
        rungs = tuple(luck.random() for _ in range(luck.randrange(3)))
        found.append(Tried(number, choices, state, values, rungs))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("searched", SEARCHED)
@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 30))
def test_what_is_asked_is_a_run_of_the_space_and_the_same_again(
    searched: str, space: str, seed: int, size: int
) -> None:
    applied = spec(searched.removesuffix("}") + space + "}")
    made = Pipeline.model_validate(applied)
    assert problems(made) == []
    tree = space_of(made)
    tried = history(tree, seed, size, 2 if "objectives" in searched else 1)
    choices = ask(made.tuner, tree, tried, size)
    assert tree.holds(choices)  # so a key of a family stands with that family alone
    run = overridden(applied, tree.overrides(choices))
    assert run.model.type == choices.get("model.type", next(iter(tree.families.types)))
    shuffled = random.Random(seed).sample(tried, len(tried))
    assert ask(made.tuner, tree, shuffled, size) == choices


def test_every_search_is_tried() -> None:
    assert {type(pipeline(searched).tuner) for searched in SEARCHED} == SEARCHES.keys()


def test_trial_0_has_the_files_own_values() -> None:
    made = pipeline("{type: random}")
    assert ask(made.tuner, space_of(made), [], 0) == {}
    assert space_of(made).overrides({}) == {}


def test_another_trial_or_seed_is_asked_for_something_else() -> None:
    made, other = pipeline("{type: random}"), pipeline("{type: random, seed: 8}")
    space = space_of(made)
    asked = [ask(made.tuner, space, [], number) for number in range(1, 9)]
    asked += [ask(other.tuner, space, [], number) for number in range(1, 9)]
    assert len({str(one) for one in asked}) == 16


def test_what_was_tried_is_not_tried_again_while_there_is_something_else() -> None:
    made = pipeline("{type: random, space: {model: [mlp, linear, tabm, boosted_trees]}}")
    space, tried = space_of(made), [Tried(0, {}, "complete", (1.0,))]
    for number in range(1, 7):
        choices = ask(made.tuner, space, tried, number)
        tried.append(Tried(number, choices, "failed"))
    assert len({str(one.choices) for one in tried[1:5]}) == 4


def test_a_space_that_no_file_may_have_is_refused_in_a_sentence() -> None:
    made = pipeline("{type: random}").model_copy(
        update={
            "tuner": pipeline("{}").tuner.model_copy(
                update={"space": {"model": {"mlp": {"dropout": [0.1, 2]}}}}
            )
        }
    )
    with pytest.raises(Invalid, match=r"tuner.space.model.mlp.dropout.1: input should be less than 1"):
        space_of(made)


# -- how well it searches -----------------------------------------------------------------------------

VALLEY = (
    ", space: {model: {mlp: {dropout: {low: 0, high: 0.9}}, linear: {}},"
    " trainer: {gradient_clip: {low: 0.01, high: 10, log: true},"
    " optimizer: {adamw: {beta1: {low: 0, high: 0.9}, learning_rate: {low: 1e-4, high: 1, log: true},"
    " weight_decay: {low: 1e-4, high: 1, log: true}}}}}"
)


def study(searched: str, seed: int, trials: int, judge: Callable[[Any], tuple[float, ...]]) -> list[Tried]:
    made = pipeline(f"{searched.removesuffix('}')}, seed: {seed}{VALLEY}}}")
    space, tried = space_of(made), [Tried(0, {}, "complete", judge({}))]
    for number in range(1, trials):
        choices = ask(made.tuner, space, tried, number)
        tried.append(Tried(number, choices, "complete", judge(choices)))
    return tried


def distance(choices: Any, to: float) -> float:
    """Squared, in shares of the ranges, from the point at `to` of each: on the network's side alone."""
    if choices.get("model.type") != "mlp":
        return 3.0
    adamw = "mlp.trainer.optimizer.adamw"
    shares = [
        choices["mlp.model.dropout"] / 0.9,
        choices[f"{adamw}.beta1"] / 0.9,
        np.log10(choices["mlp.trainer.gradient_clip"] * 100) / 3,
        np.log10(choices[f"{adamw}.learning_rate"] * 1e4) / 4,
        np.log10(choices[f"{adamw}.weight_decay"] * 1e4) / 4,
    ]
    return float(sum((share - to) ** 2 for share in shares))


@pytest.mark.parametrize(("searched", "trials"), [("{type: tpe}", 30), ("{type: evolution}", 80)])
def test_a_search_finds_a_valley_sooner_than_chance(searched: str, trials: int) -> None:
    def found(kind: str) -> float:
        studies = [study(kind, seed, trials, lambda c: (distance(c, 0.4),)) for seed in range(5)]
        return float(np.median([min(one.values or () for one in tried) for tried in studies]))

    assert found(searched) < 0.5 * found("{type: random}")


def test_a_genetic_search_has_the_larger_front() -> None:
    def area(kind: str, seed: int) -> float:
        tried = study(
            f"{{type: {kind}, {SEVERAL}}}", seed, 80, lambda c: (distance(c, 0.2), distance(c, 0.8))
        )
        corners = sorted(one.values or () for one in front(tried))
        heights = [3.0, *(corner[1] for corner in corners)]
        return sum((3.0 - x) * (high - y) for (x, y), high in zip(corners, heights, strict=False))

    found, chance = ([area(kind, seed) for seed in range(5)] for kind in ("genetic", "random"))
    assert np.median(found) > np.median(chance)


def test_what_matters_is_important() -> None:
    made = pipeline(f"{{type: random{VALLEY}}}")
    tried = study("{type: random}", 7, 60, lambda c: (c.get("mlp.model.dropout", 2.0),))
    found = importance(space_of(made), tried)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found) == sorted(found, key=found.__getitem__, reverse=True)
    assert found["mlp.model.dropout"] > 3 * found["mlp.trainer.gradient_clip"]
    assert importance(space_of(made), tried[:8]) == {}


# -- fronts --------------------------------------------------------------------------------------------

values = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)


@given(values)
def test_ranks_are_those_that_the_definition_has(rows: list[tuple[int, int]]) -> None:
    left, expected, level = set(range(len(rows))), [-1] * len(rows), 0
    while left:
        first = {
            one
            for one in left
            if not any(
                all(a <= b for a, b in zip(rows[other], rows[one], strict=True)) and rows[other] != rows[one]
                for other in left
            )
        }
        for one in first:
            expected[one] = level
        left, level = left - first, level + 1
    assert ranks(np.array(rows, float)).tolist() == expected


def test_crowding_is_the_distance_to_the_neighbours() -> None:
    rows = np.array([[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [4.0, 0.0], [5.0, 5.0]])
    rank = np.array([0, 0, 0, 0, 1])
    assert crowding(rows, rank).tolist() == [np.inf, 2 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf, np.inf]


@given(st.integers(0, 100), st.booleans(), st.floats(0, 1))
def test_a_mutation_stays_in_its_range(seed: int, log: bool, share: float) -> None:
    for domain in (Between(1, 9, log, whole=True), Between(0.5, 0.75, log)):
        value = domain.number(domain.low + share * (domain.high - domain.low))
        assert domain.holds(mutated(domain, value, np.random.default_rng(seed)))


# -- Optuna --------------------------------------------------------------------------------------------


def test_the_package_loads_without_optuna_and_nobody_else_knows_it() -> None:
    code = "import sys, penstock_tuner.search; sys.exit('optuna' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    users = {
        path.parent
        for folder in ("libs", "services")
        for path in (ROOT / folder).rglob("*.py")
        if "tests" not in path.parts
        and re.search(r"^\s*(import|from) optuna", path.read_text(), re.MULTILINE)
    }
    assert users == {ROOT / "services" / "tuner" / "penstock_tuner" / "search"}
