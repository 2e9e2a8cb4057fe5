"""The space of a study as a tree: what is decided, what stays, which parameter depends on which choice.

`rules.space` reads it from the pipeline file; searches ask it for parameters and make a run's
overrides of what they chose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

Choices = Mapping[str, JsonValue]
"""Decided parameters by name, `{"model.type": "mlp", "mlp.model.dropout": 0.2}`; {} is a file's own."""


@dataclass(frozen=True)
class Options:
    """A list of values, in no order."""

    values: tuple[JsonValue, ...]

    @property
    def ends(self) -> tuple[JsonValue, JsonValue]:
        return self.values[0], self.values[-1]

    def holds(self, value: JsonValue) -> bool:
        return json.dumps(value) in {json.dumps(one) for one in self.values}


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, both included; `log`: by orders of magnitude."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[JsonValue, JsonValue]:
        return self.number(self.low), self.number(self.high)

    def holds(self, value: JsonValue) -> bool:
        number = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        return number and self.low <= float(str(value)) <= self.high

    def number(self, value: float) -> int | float:
        """The value as the file has it, never outside of the range: whole where that is, else with four
        digits.
        """
        rounded = round(value) if self.whole else float(f"{value:.4g}")
        inside = min(self.high, max(self.low, rounded))
        return round(inside) if self.whole else inside


@dataclass(frozen=True)
class Parameter:
    name: str
    domain: Options | Between

    def asked(self, choices: Choices) -> Iterator[Parameter]:
        yield self

    def value(self, choices: Choices) -> JsonValue:
        return choices[self.name]


@dataclass(frozen=True)
class Fixed:
    given: JsonValue

    def asked(self, choices: Choices) -> Iterator[Parameter]:
        return iter(())

    def value(self, choices: Choices) -> JsonValue:
        return self.given


@dataclass(frozen=True)
class Keys:
    """A section: keys that stay as the file has them, and keys of the space."""

    own: Mapping[str, JsonValue] = field(default_factory=dict)
    keys: Mapping[str, Node] = field(default_factory=dict)

    def asked(self, choices: Choices) -> Iterator[Parameter]:
        for node in self.keys.values():
            yield from node.asked(choices)

    def value(self, choices: Choices) -> dict[str, JsonValue]:
        return {**self.own, **{key: node.value(choices) for key, node in self.keys.items()}}


@dataclass(frozen=True)
class Types:
    """A section in one of several types; one type alone is no choice."""

    name: str
    types: Mapping[str, Keys]

    def asked(self, choices: Choices) -> Iterator[Parameter]:
        if len(self.types) > 1:
            yield Parameter(self.name, Options(tuple(self.types)))
        yield from self._chosen(choices).asked(choices)

    def value(self, choices: Choices) -> dict[str, JsonValue]:
        return self._chosen(choices).value(choices)

    def _chosen(self, choices: Choices) -> Keys:
        alone = len(self.types) == 1
        return self.types[next(iter(self.types)) if alone else str(choices[self.name])]


Node = Parameter | Fixed | Keys | Types


@dataclass(frozen=True)
class Space:
    """Families, each with its sections `model`, `trainer` and `features`. `said`: sections that the file
    has. They are overridden even by nothing: their keys may be those of one family alone.
    """

    families: Types
    said: frozenset[str] = frozenset()

    def asked(self, choices: Choices) -> Iterator[Parameter]:
        """Yields each parameter that has a meaning with the choices before it. Lazy: the caller adds
        its choice to `choices` before it goes on.
        """
        return self.families.asked(choices)

    def holds(self, choices: Choices) -> bool:
        """Tells whether just these parameters have a meaning together, each with a value of its domain."""
        found: dict[str, JsonValue] = {}
        for parameter in self.asked(found):
            if parameter.name not in choices or not parameter.domain.holds(choices[parameter.name]):
                return False
            found[parameter.name] = choices[parameter.name]
        return found.keys() == choices.keys()

    def overrides(self, choices: Choices) -> dict[str, JsonValue]:
        """Overrides of a run with these choices: `model` and `trainer` as wholes, as keys of the
        applied file may belong to another type. Raises KeyError where a choice is missing.
        """
        if not choices:
            return {}
        made = self.families.value(choices)
        features = made.pop("features", {})
        assert isinstance(features, dict)
        treatments = {
            f"features.{name}.{key}": value
            for name, keys in features.items()
            if isinstance(keys, dict)
            for key, value in keys.items()
        }
        sections = {section: value for section, value in made.items() if value or section in self.said}
        return {**sections, **treatments}
