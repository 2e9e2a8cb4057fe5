"""`tuner: {type: random}`: each trial from the whole space (Bergstra and Bengio 2012)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import JsonValue

from penstock.contracts.pipeline.tuner import Search
from penstock.contracts.space import Space
from penstock_tuner.search.genes import draw
from penstock_tuner.search.tried import Tried


def ask(
    tuner: Search, space: Space, tried: Sequence[Tried], chance: np.random.Generator
) -> dict[str, JsonValue]:
    choices: dict[str, JsonValue] = {}
    for parameter in space.asked(choices):
        choices[parameter.name] = draw(parameter.domain, chance)
    return choices
