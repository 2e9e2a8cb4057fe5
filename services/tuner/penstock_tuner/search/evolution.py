"""`tuner: {type: evolution}`: aging evolution, for one objective.

E. Real, A. Aggarwal, Y. Huang and Q. V. Le, *Regularized Evolution for Image Classifier Architecture
Search* (2019). The population is the newest trials: an old one dies, however good it was, so that
luck of a single measurement does not stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import JsonValue

from penstock.contracts.pipeline import Evolution
from penstock.contracts.space import Space
from penstock_tuner.search import random_search
from penstock_tuner.search.genes import child
from penstock_tuner.search.tried import Tried


def ask(
    tuner: Evolution, space: Space, tried: Sequence[Tried], chance: np.random.Generator
) -> dict[str, JsonValue]:
    population = [one for one in tried if one.state == "complete"][-tuner.population :]
    if len(population) < tuner.population:
        return random_search.ask(tuner, space, tried, chance)
    drawn = chance.choice(len(population), min(tuner.sample, len(population)), replace=False)
    parent = min((population[int(one)] for one in drawn), key=lambda one: one.values or ())
    return child(space, [parent.choices], chance)
