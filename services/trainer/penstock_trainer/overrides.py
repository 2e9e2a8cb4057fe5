"""A run's overrides: dotted keys of the pipeline file, `{"trainer.epochs": 5}`, checked like the file itself.

Only what the trainer alone decides may be overridden. Which rows and columns there are, how they
are split, what is evidence and how it is served are the applied file's: other services act on those
by its number.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, JsonValue, ValidationError

from penstock.contracts import rules
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline

SECTIONS = ("model", "trainer", "decision")
"""Whole."""
SEED = "training.seed"
"""Of weights and order. The split keeps the applied seed."""


def overridden(spec: Mapping[str, JsonValue], overrides: Mapping[str, JsonValue]) -> Pipeline:
    """The pipeline with the overrides in it. Raises Invalid, naming the key, for the first thing
    that is wrong.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    for key, value in overrides.items():
        _check(key, changed)
        _set(changed, key, value)
    try:
        pipeline = Pipeline.model_validate(changed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Invalid(
            _sentence(first["loc"], first["type"], first["msg"]), where=_blamed(overrides, first["loc"])
        ) from error
    for problem in rules.problems(pipeline):
        raise Invalid(problem.message, where=_blamed(overrides, problem.path))
    return pipeline


def _check(key: str, spec: Mapping[str, Any]) -> None:
    """Whether a run may change this key: the sections, the seed, and how (not which) a declared
    feature enters the model.
    """
    section, *rest = key.split(".")
    if section in SECTIONS or key == SEED:
        return
    if section == "features" and len(rest) == 2 and rest[1] != "from":
        declared = spec.get("features") or {}
        if rest[0] not in declared:
            raise Invalid(
                f"the applied file declares no feature `{rest[0]}`{rules.nearest(rest[0], declared)}",
                where=key,
            )
        return
    known = (*SECTIONS, SEED, "features.NAME.TREATMENT")
    applied = section in Pipeline.model_fields
    raise Invalid(
        f"a run may not change `{key}`"
        if applied
        else f"no key `{key}`{rules.nearest(section, Pipeline.model_fields)}",
        where=key,
        remedy=f"It may change {', '.join(known)}; for the rest, change the file and apply it again"
        if applied
        else None,
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


def _sentence(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return f"no key `{loc[-1]}`{rules.nearest(str(loc[-1]), _keys_beside(loc))}"
    return message[0].lower() + message[1:]


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where `loc` ends."""
    model: type[BaseModel] = Pipeline
    for name in loc[:-1]:
        field = model.model_fields.get(str(name))
        parts = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _blamed(overrides: Mapping[str, JsonValue], loc: tuple[int | str, ...]) -> str:
    """The override that the place belongs to, else the place itself."""
    place = ".".join(map(str, loc))
    return next(
        (
            key
            for key in overrides
            if place == key or place.startswith(f"{key}.") or key.startswith(f"{place}.")
        ),
        place,
    )
