"""Values of single parameters: drawn, mutated, inherited."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import JsonValue

from penstock.contracts.space import Between, Choices, Options, Space

_STEP = 0.2  # standard deviation of a number's mutation, as a share of its range
_BEYOND = 0.25  # how far a child may lie beyond its parents, as a share of their distance


def draw(domain: Options | Between, chance: np.random.Generator) -> JsonValue:
    """Any value of the domain, each as likely as another."""
    if isinstance(domain, Options):
        return domain.values[int(chance.integers(len(domain.values)))]
    return _at(domain, chance.random())


def mutated(domain: Options | Between, value: JsonValue, chance: np.random.Generator) -> JsonValue:
    """Another option, or a number near by: beyond an end of the range it comes back inwards."""
    if isinstance(domain, Options):
        others = tuple(one for one in domain.values if one != value)
        return draw(Options(others), chance) if others else value
    share = abs(_share(domain, value) + chance.normal(0.0, _STEP))
    return _at(domain, 1 - abs(1 - share) if share <= 2 else chance.random())


def crossed(domain: Options | Between, held: Sequence[JsonValue], chance: np.random.Generator) -> JsonValue:
    """The value of a parent, or of two a number between them and a little beyond (BLX, Eshelman and
    Schaffer 1993).
    """
    if isinstance(domain, Options) or len(held) == 1:
        return held[int(chance.integers(len(held)))]
    first, second = (_share(domain, value) for value in held)
    return _at(domain, min(1.0, max(0.0, first + chance.uniform(-_BEYOND, 1 + _BEYOND) * (second - first))))


def child(space: Space, parents: Sequence[Choices], chance: np.random.Generator) -> dict[str, JsonValue]:
    """Choices of one parent or of two, at least one of them mutated; what no parent has is drawn."""
    made: dict[str, JsonValue] = {}
    size = max(len(parent) for parent in parents)
    sure = int(chance.integers(size))
    for place, parameter in enumerate(space.asked(made)):
        held = [parent[parameter.name] for parent in parents if parameter.name in parent]
        if not held:
            made[parameter.name] = draw(parameter.domain, chance)
            continue
        value = crossed(parameter.domain, held, chance)
        changes = place == sure or chance.random() < 1 / size
        made[parameter.name] = mutated(parameter.domain, value, chance) if changes else value
    return made


def _share(domain: Between, value: JsonValue) -> float:
    """Place of the value in its range, from 0 to 1."""
    low, high = _scaled(domain)
    return (_scale(domain, float(str(value))) - low) / (high - low)


def _at(domain: Between, share: float) -> int | float:
    """The number at a share of the range, by orders of magnitude where it is searched so."""
    low, high = _scaled(domain)
    value = low + share * (high - low)
    return domain.number(math.exp(value) if domain.log else value)


def _scaled(domain: Between) -> tuple[float, float]:
    half = 0.5 if domain.whole else 0.0  # so that the ends are as likely as the others
    return _scale(domain, domain.low - half), _scale(domain, domain.high + half)


def _scale(domain: Between, value: float) -> float:
    return math.log(value) if domain.log else value
