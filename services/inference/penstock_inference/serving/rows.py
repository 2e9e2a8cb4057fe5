"""Rows of a model's input, from feature values by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from penstock.contracts.errors import Invalid
from penstock_inference.serving.model import Model

FeatureValue = float | str | bool | None
"""None is missing."""

_NAMES: Final = {"number": "a number", "text": "a text", "boolean": "a boolean"}
# Kind of value that a field's type takes.
_KINDS: Final = {"number": "number", "category": "text", "text": "text", "boolean": "boolean"}


@dataclass(frozen=True)
class Row:
    """Row in the order of the version's inputs."""

    numbers: tuple[float | None, ...]
    strings: tuple[str, ...]


def row_of(model: Model, values: Mapping[str, FeatureValue]) -> Row:
    """Orders feature values by name into a row; a feature without a value is missing. Raises
    Invalid for an unknown name or a value of another type.
    """
    for name, value in values.items():
        if name not in model.types:
            raise Invalid(
                f"{model.pipeline} has no feature {name!r}",
                where=name,
                remedy=did_you_mean(name, model.types, "Features"),
            )
        wanted = _KINDS[model.types[name]]
        if value is not None and _kind(value) != wanted:
            raise Invalid(f"must be {_NAMES[wanted]}, this is {_NAMES[_kind(value)]}: {value!r}", where=name)
    inputs = model.package.signature.inputs
    numbers = tuple(_number(values.get(name)) for name in inputs.numbers)
    return Row(numbers, tuple(_text(values.get(name)) for name in inputs.strings))


def did_you_mean(name: str, known: Iterable[str], label: str) -> str:
    """Remedy for an unknown name: the nearest known one, else all of them after `label`."""
    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=1):
        return f"Did you mean {near[0]!r}?"
    return f"{label}: {', '.join(names)}" if names else "Train and promote one first: see `penstock models`"


def _kind(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _number(value: FeatureValue) -> float | None:
    return float(value) if value is not None else None


def _text(value: FeatureValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value is not None else ""
