"""An ensemble of a study's trials: one more trial, whose model averages those of the best.

Weights are chosen greedily on the validation rows when it is fitted
(`penstock.modelkit.families.ensemble`). The library is pruned to its best models before, so that
these rows are overfitted less: R. Caruana, A. Munson and A. Niculescu-Mizil, *Getting the Most Out
of Ensemble Selection* (2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from penstock.contracts.errors import Invalid
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Ensemble
from penstock.contracts.pipeline.base import Model
from penstock.contracts.pipeline.tuner import OneObjective, Search, TrialEnsemble
from penstock.contracts.planning import planned
from penstock_tuner.search.tried import ENSEMBLE, Choices, Tried

FEATURES = "features."


def wanted(tuner: Search) -> TrialEnsemble | None:
    return tuner.ensemble if isinstance(tuner, OneObjective) else None


def choices(tuner: Search, tried: Sequence[Tried]) -> Choices | None:
    """Choices of the ensemble that the study's trials make: the numbers of its members, the best first.
    None where the file wants none, where fewer than two trials come in question, and where just these
    were averaged before.

    A row takes about as long as in all members one after the other: together they keep to
    `tuner.ensemble.latency`. Members treat the features alike.
    """
    section = wanted(tuner)
    if section is None:
        return None
    alone = [one for one in tried if one.state == "complete" and one.number >= 0 and not one.members]
    left, found = section.most_us, list[Tried]()
    for one in sorted(alone, key=lambda one: (one.values or (), one.number)):
        alike = not found or _treatments(one) == _treatments(found[0])
        if alike and len(found) < section.members and one.latency_us <= left:
            found.append(one)
            left -= one.latency_us
    numbers = [one.number for one in found]
    known = numbers in [list(one.members) for one in tried]
    return {ENSEMBLE: [*numbers]} if len(numbers) > 1 and not known else None


def _treatments(one: Tried) -> dict[str, JsonValue]:
    """Choices of features' treatments, whatever the family."""
    named = ((name.partition(".")[2], value) for name, value in one.choices.items())
    return {name: value for name, value in named if name.startswith(FEATURES)}


def overrides(
    spec: Mapping[str, JsonValue], rows: int, members: Sequence[Mapping[str, JsonValue]]
) -> dict[str, JsonValue]:
    """Overrides of a run whose model averages those of runs with these overrides, each trained as it was
    there on so many `rows`. Raises Invalid.
    """
    plans = [planned(overridden(spec, one), rows).pipeline for one in members]
    told = [
        (_said(plan.model), _said(plan.trainer)) for plan in plans if not isinstance(plan.model, Ensemble)
    ]
    each = [one for place, one in enumerate(told) if one not in told[:place]]
    model: dict[str, JsonValue] = {
        "type": "ensemble",
        "members": [model for model, _ in each],
        "trainers": [trainer for _, trainer in each],
    }
    return {"model": model, **{key: value for key, value in members[0].items() if key.startswith(FEATURES)}}


def _said(section: Model) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True, exclude_unset=True)


def check(tuner: Search, metrics: Mapping[str, float]) -> None:
    """Raises Invalid for an ensemble in which a row takes longer than the file allows."""
    section = wanted(tuner)
    if section is not None and (took := metrics["latency_us"]) > section.most_us:
        raise Invalid(
            f"a row takes {took / 1000:.2f} ms, allowed are {section.most_us / 1000:g} ms",
            where="tuner.ensemble.latency",
        )
