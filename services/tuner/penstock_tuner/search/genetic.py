"""`tuner: {type: genetic}`: NSGA-II, for several objectives.

K. Deb, A. Pratap, S. Agarwal and T. Meyarivan, *A Fast and Elitist Multiobjective Genetic Algorithm:
NSGA-II* (2002). It keeps the best of parents and children, which are the best of all trials so far:
parents are drawn from those whenever a trial is asked for, so that no generation waits for its last
trial.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import JsonValue

from penstock.contracts.pipeline import Genetic
from penstock.contracts.space import Space
from penstock_tuner.search import random_search
from penstock_tuner.search.front import crowding, ranks
from penstock_tuner.search.genes import child
from penstock_tuner.search.tried import Tried


def ask(
    tuner: Genetic, space: Space, tried: Sequence[Tried], chance: np.random.Generator
) -> dict[str, JsonValue]:
    complete = [one for one in tried if one.state == "complete"]
    if len(complete) < tuner.population:
        return random_search.ask(tuner, space, tried, chance)
    values = np.array([one.values for one in complete])
    rank = ranks(values)
    order = np.lexsort((-crowding(values, rank), rank))[: tuner.population]
    # Of each two that are drawn the better one becomes a parent: `order` begins with the best.
    places = order[chance.integers(len(order), size=(2, 2)).min(axis=1)]
    return child(space, [complete[int(place)].choices for place in places], chance)
