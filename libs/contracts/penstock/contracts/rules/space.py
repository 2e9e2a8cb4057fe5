"""Reads `tuner.space` into a tree that is typed by the families' keys."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from penstock.contracts.pipeline import FamilySpec, Pipeline, Trainer
from penstock.contracts.pipeline.base import named
from penstock.contracts.pipeline.features import Feature
from penstock.contracts.pipeline.model import Member
from penstock.contracts.pipeline.variants import (
    OneOf,
    Path,
    Place,
    Section,
    models_of,
    own_fields,
    section_of,
)
from penstock.contracts.rules.features import features
from penstock.contracts.rules.problem import Problem, nearest, unknown_key
from penstock.contracts.rules.training import CONSTRAINTS
from penstock.contracts.space import Between, Fixed, Keys, Node, Options, Parameter, Types

FAMILIES: Mapping[str, type[FamilySpec]] = {
    "".join(get_args(model.model_fields["type"].annotation)): model
    for model in models_of(Member)
    if issubclass(model, FamilySpec)
}
"""Families that may be searched, by type."""
_FAMILY = Section(tuple(FAMILIES.values()), OneOf())
_TRAINER = Section((Trainer,))
_MOST = 100  # values in a list
_ENDS = ("low", "high", "log")
_WRONG = Fixed(None)
_NUMBER_KEYS = frozenset({"impute", "clip", "scale"})

Said = Mapping[str, JsonValue]


class Reader:
    """Reads the spaces of one pipeline's families; what is wrong gathers in `problems`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.problems: list[Problem] = []
        self._pipeline = pipeline
        self._model: Said = json.loads(json.dumps(named(pipeline.model), default=named))
        self._trainer: Said = json.loads(json.dumps(named(pipeline.trainer)))

    def family(self, kind: str, said: Mapping[str, Said], at: Path) -> Keys:
        """Reads keys of the family's own (`said["model"]`), and those of `trainer` and `features` that
        it knows.
        """
        spec, trainer = FAMILIES[kind], said.get("trainer", {})
        own = self._model if kind == self._pipeline.model.type else {}
        kept = spec.trainer_keys | CONSTRAINTS
        others = Trainer.model_fields.keys() - spec.trainer_keys
        model = self._keys(_FAMILY, kind, said.get("model", {}), own, f"{kind}.model", (*at, "model", kind))
        return Keys(
            keys={
                "model": model,
                "trainer": self._keys(
                    _TRAINER,
                    "",
                    {key: trainer[key] for key in trainer if key not in others},
                    {key: self._trainer[key] for key in self._trainer if key in kept},
                    f"{kind}.trainer",
                    (*at, "trainer"),
                ),
                "features": self._features(spec, said.get("features", {}), kind, (*at, "features")),
            }
        )

    def _keys(self, section: Section, tag: str, said: Said, own: Said, name: str, at: Path) -> Keys:
        """A section of the type `tag`, or (``) of none: what the file has (`own`), what is searched."""
        model = section.types().get(tag) or section.models[0]
        known = own_fields(model)
        found: dict[str, Node] = {}
        for key, given in said.items():
            if key in known and key != "type":
                found[key] = self._node(model, key, given, own.get(key), f"{name}.{key}", (*at, key))
            else:
                self._wrong((*at, key), unknown_key(Place((*at, key), section, model)))
        kept = {key: value for key, value in own.items() if key in known}
        return Keys({**kept, "type": tag} if tag else kept, found)

    def _node(
        self, model: type[BaseModel], key: str, given: JsonValue, own: JsonValue, name: str, at: Path
    ) -> Node:
        section = section_of(own_fields(model)[key].rebuild_annotation())
        if section and not section.held:
            mine = own if isinstance(own, dict) else {}
            types = types_of(given) if section.union else None
            if types is not None:
                return self._typed(section, types, mine, name, at)
            if isinstance(given, dict) and not section.union:
                return self._keys(section, "", given, mine, name, at)
        if isinstance(given, dict):
            return self._between(model, key, given, name, at)
        if isinstance(given, list):
            return self._options(model, key, given, name, at)
        return Fixed(given) if self._fits(model, key, given, at) else _WRONG

    def _typed(self, section: Section, said: Mapping[str, Said], own: Said, name: str, at: Path) -> Node:
        """A section by the names of its types; keys of the file's own stay with its own type."""
        known = section.types()
        meant = next(tag for tag, model in known.items() if not model.model_fields["type"].is_required())
        for tag in said:
            if tag not in known:
                return self._wrong((*at, tag), f"no type `{tag}`{nearest(tag, known)}")
        if not said:
            return self._wrong(at, f"name the types to try{nearest('', known)}")
        mine = {tag: own if own.get("type", meant) == tag else {} for tag in said}
        return Types(
            f"{name}.type",
            {
                tag: self._keys(section, tag, keys, mine[tag], f"{name}.{tag}", (*at, tag))
                for tag, keys in said.items()
            },
        )

    def _between(self, model: type[BaseModel], key: str, said: Said, name: str, at: Path) -> Node:
        kinds = get_args(own_fields(model)[key].annotation) or (own_fields(model)[key].annotation,)
        if not {int, float} & set(kinds):
            return self._wrong(at, "this is no number: list the values to try, as in [a, b]")
        if strange := next((name for name in said if name not in _ENDS), None):
            return self._wrong((*at, strange), f"no key `{strange}`{nearest(strange, _ENDS)}")
        ends = []
        for end in ("low", "high"):
            value = said.get(end)
            if not isinstance(value, int | float) or isinstance(value, bool):
                return self._wrong((*at, end), "give both ends, `low` and `high`, each a number")
            if not self._fits(model, key, value, (*at, end)):
                return _WRONG
            ends.append(float(value))
        low, high = ends
        log = said.get("log", False)
        if not isinstance(log, bool):
            return self._wrong((*at, "log"), "write true or false")
        if low >= high:
            return self._wrong((*at, "high"), f"it must be above `low`, which is {low:g}")
        if log and low <= 0:
            return self._wrong((*at, "low"), "orders of magnitude are above 0: raise it, or leave `log` out")
        return Parameter(name, Between(low, high, log, whole=float not in kinds))

    def _options(self, model: type[BaseModel], key: str, given: list[JsonValue], name: str, at: Path) -> Node:
        fitting = [self._fits(model, key, value, (*at, number)) for number, value in enumerate(given)]
        return self._chosen(given, name, at) if all(fitting) else _WRONG

    def _chosen(self, given: list[JsonValue], name: str, at: Path) -> Node:
        written = [json.dumps(value) for value in given]
        twice = [number for number, value in enumerate(written) if value in written[:number]]
        if twice:
            return self._wrong((*at, twice[0]), "this value stands above; leave it out")
        if not 0 < len(given) <= _MOST:
            return self._wrong(at, f"list the values to try, at most {_MOST}")
        return Parameter(name, Options(tuple(given))) if len(given) > 1 else Fixed(given[0])

    def _fits(self, model: type[BaseModel], key: str, value: JsonValue, at: Path) -> bool:
        try:
            _adapter(model, key).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            self._wrong(at, f"{said[0].lower()}{said[1:]}, not {json.dumps(value)[:60]}")
            return False
        if isinstance(value, float) and not math.isfinite(value):
            self._wrong(at, "write a finite number")
            return False
        return True

    def _features(self, spec: type[FamilySpec], said: Said, kind: str, at: Path) -> Keys:
        """Treatments to try of features that the file declares, as far as the family goes by them."""
        declared = self._pipeline.features
        found: dict[str, Node] = {}
        for name, keys in said.items():
            place = (*at, name)
            if name not in declared:
                self._wrong(place, f"the file declares no feature `{name}`{nearest(name, declared)}")
            elif not isinstance(keys, dict):
                self._wrong(place, "write treatments with the values to try, as in {scale: [standard, none]}")
            else:
                found[name] = Keys(keys=dict(self._treatments(spec, name, keys, kind, place)))
        return Keys(keys=found)

    def _treatments(
        self, spec: type[FamilySpec], name: str, said: Said, kind: str, at: Path
    ) -> Iterator[tuple[str, Node]]:
        for key, given in said.items():
            if key in _NUMBER_KEYS - spec.treatments:
                continue
            values = given if isinstance(given, list) else [given]
            kept = []
            for number, value in enumerate(values):
                wrong = self._untreatable(kind, name, key, value)
                if not wrong:
                    kept.append(value)
                elif all(self._untreatable(other, name, key, value) for other in FAMILIES):
                    self._wrong((*at, key, number) if values is given else (*at, key), wrong)
            if kept:
                yield key, self._chosen(kept, f"{kind}.features.{name}.{key}", (*at, key))

    def _untreatable(self, kind: str, name: str, key: str, value: JsonValue) -> str:
        """A sentence on a treatment that the feature, or the family, does not take; "" where it does."""
        own = named(self._pipeline.features[name])
        kept = {"source_field": own["source_field"]} if key == "encode" else own
        try:
            made = _feature().validate_python({**kept, key: value})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            unknown = first["type"] == "extra_forbidden"
            return f"no key `{key}`" if unknown else f"{first['msg'][0].lower()}{first['msg'][1:]}"
        changed = {
            "features": {**self._pipeline.features, name: made},
            "model": FAMILIES[kind].model_validate({"type": kind}),
        }
        found = features(self._pipeline.model_copy(update=changed))
        return next((problem.message for problem in found if problem.path[:2] == ("features", name)), "")

    def _wrong(self, at: Path, message: str) -> Node:
        self.problems.append(Problem(at, message))
        return _WRONG


def types_of(given: JsonValue) -> Mapping[str, Said] | None:
    """Names of types with the keys of each, of a mapping by name or a list of names; else None."""
    if isinstance(given, list):
        names = [name for name in given if isinstance(name, str)]
        return {name: {} for name in names} if len(names) == len(given) else None
    if isinstance(given, dict):
        kept = {tag: keys if keys is not None else {} for tag, keys in given.items()}
        return {tag: keys if isinstance(keys, dict) else {"type": keys} for tag, keys in kept.items()}
    return None


@lru_cache(maxsize=512)
def _adapter(model: type[BaseModel], key: str) -> TypeAdapter[Any]:
    return TypeAdapter(own_fields(model)[key].rebuild_annotation())


@lru_cache(maxsize=1)
def _feature() -> TypeAdapter[Any]:
    return TypeAdapter(Feature)
