"""Asks for a trial's choices. A search is a file, and a line in `SEARCHES`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import JsonValue

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Evolution, Genetic, Pipeline, RandomSearch, Tpe
from penstock.contracts.pipeline.tuner import Search as Section
from penstock.contracts.rules import search_space
from penstock.contracts.space import Choices, Space
from penstock_tuner.search import evolution, genetic, random_search, tpe
from penstock_tuner.search.tried import Tried

Search = Callable[[Any, Space, Sequence[Tried], np.random.Generator], dict[str, JsonValue]]
"""Takes the section, the space, trials with choices in order of their numbers, a source of chance."""

SEARCHES: Mapping[type[Section], Search] = {
    Tpe: tpe.ask,
    RandomSearch: random_search.ask,
    Genetic: genetic.ask,
    Evolution: evolution.ask,
}
_DRAWS = 20  # before a configuration that was tried is tried again


def space_of(pipeline: Pipeline) -> Space:
    """The space that a study of the applied pipeline searches. Raises Invalid where there is none."""
    space, problems = search_space(pipeline)
    if problems:
        raise Invalid(problems[0].message, where=".".join(map(str, problems[0].path)))
    return space


def ask(tuner: Section, space: Space, tried: Sequence[Tried], number: int) -> Choices:
    """Chooses what trial `number` tries: of trial 0 nothing, the file's own values. Deterministic by
    the seed, the number and the trials.
    """
    if number == 0:
        return {}
    chance = np.random.default_rng((tuner.seed, number))
    usable = [one for one in sorted(tried, key=lambda one: one.number) if one.choices and not one.members]
    seen = {_written(one.choices) for one in usable}
    for _ in range(_DRAWS):
        choices = SEARCHES[type(tuner)](tuner, space, usable, chance)
        if _written(choices) not in seen:
            break
    return choices


def _written(choices: Choices) -> str:
    return json.dumps(choices, sort_keys=True)
