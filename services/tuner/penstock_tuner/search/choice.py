"""Judges trials: the objectives' values of one, the best of all, and the rule in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from penstock.contracts.errors import Invalid
from penstock.contracts.formula import parse
from penstock.contracts.pipeline import Limits
from penstock.contracts.pipeline.tuner import Objectives, Search, formulas
from penstock_tuner.search.front import front
from penstock_tuner.search.tried import Tried

LONGEST_RULE = 500  # characters, as a run's reference to its study takes it


def value(tuner: Search, measured: Mapping[str, float]) -> tuple[float, ...]:
    """The objectives of what was measured, in the file's order, each the less the better. Raises
    Invalid where one is not defined.
    """
    found = []
    for name, text in formulas(tuner).items():
        formula = parse(text)
        undefined = [one for one in formula.names if not math.isfinite(measured.get(one, math.nan))]
        worth = math.nan if undefined else formula(measured)
        if not math.isfinite(worth):
            because = f"`{undefined[0]}` is not defined" if undefined else f"it is {worth}"
            raise Invalid(f"`{text}` has no value: {because}", where=f"tuner.{name}")
        found.append(worth)
    return tuple(found)


def best(tuner: Search, tried: Sequence[Tried]) -> Tried | None:
    """The trial that the rule takes, of equal ones the first; None where none is complete, or none
    within the limits.
    """
    candidates = front(tried)
    names = list(formulas(tuner))
    if len(names) == 1 or not candidates:
        return candidates[0] if candidates else None
    assert isinstance(tuner, Objectives)
    values = np.array([one.values for one in candidates])
    if isinstance(tuner.choose, Limits):
        limits = np.array([tuner.choose.at_most.get(name, math.inf) for name in names])
        within = (values <= limits).all(axis=1)
        chosen = np.where(within, values[:, names.index(tuner.choose.minimize)], math.inf)
        return candidates[int(chosen.argmin())] if within.any() else None
    low = values.min(axis=0)
    width = values.max(axis=0) - low
    scaled = (values - low) / np.where(width > 0, width, 1.0)
    return candidates[int((scaled**2).sum(axis=1).argmin())]


def rule(tuner: Search) -> str:
    """Says in words how the best trial is chosen: `the least train_loss + 50 * validation_loss`. What is
    longer than LONGEST_RULE is cut.
    """
    said = _rule(tuner)
    return said if len(said) <= LONGEST_RULE else f"{said[: LONGEST_RULE - 1]}…"


def _rule(tuner: Search) -> str:
    named = formulas(tuner)
    if not isinstance(tuner, Objectives) or len(named) == 1:
        return f"the least {next(iter(named.values()))}"
    if isinstance(tuner.choose, Limits):
        limits = [f"{named[name]} at most {limit:g}" for name, limit in tuner.choose.at_most.items()]
        among = f" among those with {' and '.join(limits)}" if limits else ""
        return f"the least {named[tuner.choose.minimize]}{among}"
    return f"the nearest to the best of {', '.join(named.values())} at once"
