"""A run's overrides: dotted keys of the pipeline file, `{"trainer.epochs": 5}`, checked like the file itself.

Only what the trainer alone decides may be overridden. Which rows and columns there are, how they
are split, what is evidence and how it is served are the applied file's: other services act on those
by its number.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from penstock.contracts import rules
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import Path, Place, Section, choice, locate, section_at

SECTIONS = ("model", "trainer", "decision")  # whole
OF_NETWORKS = ("workers", "precision", "compile", "deterministic")
SEED = "training.seed"  # of weights and order; the split keeps the applied seed


def overridden(spec: Mapping[str, JsonValue], overrides: Mapping[str, JsonValue]) -> Pipeline:
    """The pipeline with the overrides in it. An override that names a type, `model.type`, takes the
    place of the section: of the applied one only the keys stay that every type has.

    Raises Invalid, naming the key, for the first thing that the overrides make wrong; what the
    applied file says is not judged again, as an earlier release may have taken it.
    """
    try:
        pipeline = Pipeline.model_validate(changed(spec, overrides))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = locate(Pipeline, first)
        raise Invalid(_sentence(place, first), where=_blamed(overrides, place.path)) from error
    found = [problem for problem in rules.problems(pipeline) if problem.path[0] != "tuner"]
    applied = rules.problems(Pipeline.model_validate(spec)) if found else []
    for problem in found:
        where = _blamed(overrides, problem.path)
        if where in overrides or problem not in applied:
            raise Invalid(problem.message, where=where)
    return pipeline


def for_trials(spec: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The file as a study's trials take it, and the run with its choice: trees among them take one
    worker alone and a CPU in full precision, and the run must have the trial's weights, bit for bit.
    """
    given = spec.get("training")
    training = {} if not isinstance(given, dict) else given
    kept = {key: value for key, value in training.items() if key not in OF_NETWORKS}
    return {**spec, "training": {**kept, "accelerator": "cpu"}}


def changed(spec: Mapping[str, JsonValue], overrides: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The file with the overrides in it, as `overridden` checks it. Raises Invalid for a key that a run
    may not change.
    """
    made: dict[str, Any] = copy.deepcopy(dict(spec))
    for key in sorted(overrides, key=lambda key: (key.count("."), _typed(key) is None)):
        _check(key, made)
        _set(made, key, overrides[key])
    return made


def _typed(key: str) -> Section | None:
    """The section whose type the key names."""
    *parents, last = key.split(".")
    section = section_at(Pipeline, parents)
    return section if section and section.union and section.union.key == last else None


def _check(key: str, spec: Mapping[str, Any]) -> None:
    """Tells whether a run may change this key: the sections, the seed, and how (not which) a declared
    feature enters the model.
    """
    section, *rest = key.split(".")
    if section in SECTIONS or key == SEED:
        return
    if section not in Pipeline.model_fields:
        raise Invalid(f"no key `{key}`{rules.nearest(section, Pipeline.model_fields)}", where=key)
    if section != "features" or len(rest) != 2 or rest[1] == "from":
        known = ", ".join((*SECTIONS, SEED, "features.NAME.TREATMENT"))
        raise Invalid(
            f"a run may not change `{key}`",
            where=key,
            remedy=f"It may change {known}; for the rest, change the file and apply it again",
        )
    declared = spec.get("features") or {}
    if rest[0] not in declared:
        raise Invalid(
            f"the applied file declares no feature `{rest[0]}`{rules.nearest(rest[0], declared)}", where=key
        )


def _set(spec: dict[str, Any], key: str, value: JsonValue) -> None:
    node = spec
    *parents, last = key.split(".")
    for name in parents:
        inner = node.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise Invalid(f"`{name}` holds no keys", where=key)
        node[name] = dict(inner or {})
        node = node[name]
    node[last] = value
    if section := _typed(key):
        for other in node.keys() - section.shared() - {last}:
            del node[other]


def _sentence(place: Place, error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return rules.unknown_key(place)
    if error["type"] == "union_tag_invalid":
        *words, last = (f"'{word}'" for word in choice(place, error)[1])
        return f"input should be {', '.join(words)} or {last}"
    return error["msg"][0].lower() + error["msg"][1:]


def _blamed(overrides: Mapping[str, JsonValue], path: Path) -> str:
    """The override that the place belongs to, else the place itself."""
    place = ".".join(map(str, path))
    return next(
        (
            key
            for key in overrides
            if place == key or place.startswith(f"{key}.") or key.startswith(f"{place}.")
        ),
        place,
    )
