"""The reference page of the pipeline file: every key, what it takes, what it is when left out, what
it means.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from penstock.contracts.durations import format_duration
from penstock.contracts.pipeline import Model, Pipeline
from penstock.contracts.pipeline.base import Bytes
from penstock.contracts.pipeline.variants import NO_TYPE, Section, own_fields, section_of

_INTRODUCTION = """\
# The pipeline file

Generated from `penstock.contracts.pipeline`; `make gen` writes it. YAML 1.2: `1e-3` is a number,
`no` is a word. An unknown key is an error with line, key and the nearest right name, and so is a
key of another type than the one that is chosen. Durations are a number and one of ms, s, m, h, d.
"""


def reference() -> str:
    return "\n".join([_INTRODUCTION, *_sections(Section((Pipeline,)), "", {})])


def _sections(section: Section, path: str, told: dict[type[BaseModel], str]) -> Iterator[str]:
    """`told`: where each model has its tables."""
    if all(told.get(model) == path for model in section.models):
        return
    yield f"## `{path}`\n" if path else "## The file\n"
    key = section.union.key if section.union else ""
    if key and all(model in told for model in section.models):
        names = ", ".join(f"`{tag}`" for tag in section.types())
        said = f"As under `{told[section.models[0]]}`, with `{key}` one of {names}."
        yield textwrap.fill(said, 100, break_on_hyphens=False) + "\n"
        return
    told |= dict.fromkeys(section.models, path)
    if key:
        yield f"`{key}` says which of these tables holds.\n"
    for tag, model in (section.types() or {NO_TYPE: section.models[0]}).items():
        if key:
            yield f"### `{key}: {tag}`\n" if tag != NO_TYPE else f"### Without `{key}`\n"
        yield from _table(model, first=key)
    for model in section.models:
        for name, field in own_fields(model).items():
            if inner := section_of(field.rebuild_annotation()):
                step = f"{path}.{name}" if path else name
                yield from _sections(inner, step + {"{}": ".<name>"}.get(inner.held, inner.held), told)


def _table(model: type[BaseModel], first: str) -> Iterator[str]:
    if model.__doc__ and model is not Pipeline:
        yield textwrap.fill(" ".join(model.__doc__.split()), 100) + "\n"
    yield "| key | takes | when left out | |\n|---|---|---|---|"
    documented = _documented(model)
    fields = own_fields(model)
    for key in sorted(fields, key=lambda key: key != first):
        if fields[key].annotation is not NoneType:
            takes, left_out = _takes(fields[key].rebuild_annotation()), _left_out(fields[key])
            yield f"| `{key}` | {takes} | {left_out} | {documented.get(key, '')} |"
    yield ""


def _takes(annotation: Any) -> str:
    section = section_of(annotation)
    if section is None:
        return _scalar(annotation)
    if section.union is None or section.held:
        held = {"": "a mapping", "{}": "names to mappings", "[]": "a list of mappings"}[section.held]
        return f"{held} or names of types" if section.union and section.union.alone else held
    alone = " or ".join(f"`{name}`" for name in section.union.names(section.models))
    return f"a mapping by `{section.union.key}`{f', or {alone} alone' if alone else ''}"


def _scalar(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in parts)
    if origin is dict:
        return f"names to {_scalar(parts[1])}"
    if origin is tuple and ... in parts:
        return f"a list of {_MANY[_scalar(parts[0])]}"
    if origin is tuple:
        return "[low, high]" if set(parts) == {float} else "[low, high], numbers or percentiles like `p01`"
    if parts:  # Annotated, or a union with None
        said = [part for part in parts[: 1 if origin is Annotated else None] if part is not NoneType]
        if any(get_origin(part) is Literal for part in said):
            return " \\| ".join(map(_scalar, said))
        return _scalar(said[0]) if len(said) == 1 else "a value"
    return _WORDS[annotation]


_WORDS: dict[Any, str] = {
    bool: "`true` \\| `false`",
    int: "a whole number",
    float: "a number",
    str: "text",
    timedelta: "a duration",
    Bytes: "an amount of memory, as in 2GB",
    JsonValue: "a value",
}
_MANY = {
    "a whole number": "whole numbers",
    "a number": "numbers",
    "text": "texts",
    "a list of texts": "lists of texts",
}


def _left_out(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value in (None, {}, ()):
        return "none"
    section = section_of(field.rebuild_annotation())
    union = section.union if section else None
    if isinstance(value, BaseModel):
        return f"`{union.key}: {union.tag(type(value))}`" if union else "its defaults"
    if isinstance(value, tuple) and union:
        return f"`[{', '.join(union.tag(type(one)) for one in value)}]`"
    written = format_duration(value) if isinstance(value, timedelta) else json.dumps(value).replace('"', "")
    return f"`{written}`"


def _documented(model: type[BaseModel]) -> dict[str, str]:
    """The texts under the fields by key, read from the source: pydantic keeps them where asked to,
    at a price for everyone who imports the models.
    """
    found = {}
    for base in (base for base in reversed(model.__mro__) if issubclass(base, Model)):
        body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
        for statement, following in itertools.pairwise(body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(text)):
                    found[name] = " ".join(str(text).split()).replace("|", "\\|")
    return {field.alias or name: found[name] for name, field in model.model_fields.items() if name in found}
