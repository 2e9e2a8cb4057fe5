"""The type of a source's events, made from its declaration.

It refuses some events that the rules accept. What fits it is the record that the rules would make,
once `blank` texts are missing, and where neither its time is wrong nor any text holds a NUL character.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from msgspec import Meta, Struct

from penstock.contracts.dataplane import MAX_IDENTIFIER
from penstock.contracts.pipeline import Source, SourceField
from penstock.contracts.validation import bounds

_EXACT: Final = float(2**53 - 1)  # beyond, how a number is written tells whether a float holds it
_NEVER: Final = ("\0",)  # a text that no event may hold
_IDENTIFIER: Final = (
    Annotated[str, Meta(min_length=1, max_length=MAX_IDENTIFIER)]
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
)
# Made of values, which type checkers do not follow.
_literal: Any = Literal
_union: Any = Union


def event_type(source: Source, key: str, names: Sequence[str]) -> type[Struct] | None:
    """A struct whose attributes are in the order of `names`: the id, the entity's `key`, the timestamp
    and all fields, each once. None where the id or the key is declared as a field that is no text.
    """
    types: list[Any] = []
    for place, name in enumerate(names):
        field, identifies = source.fields.get(name), name in (source.id, key)
        attribute = f"f{place}"  # any name is a field's, `class` too
        if field is None:
            types.append((attribute, _IDENTIFIER if identifies else str | float))
        elif identifies and field.type not in ("category", "text"):
            return None
        elif field.required or identifies or name == source.timestamp:
            most = min(field.max_length, MAX_IDENTIFIER if identifies else field.max_length)
            types.append((attribute, _type(field, source.missing, most, needed=True)))
        else:
            types.append((attribute, _type(field, source.missing, field.max_length, needed=False), None))
    rename = {f"f{place}": name for place, name in enumerate(names)}
    return msgspec.defstruct(
        "Event", types, rename=rename, kw_only=True, forbid_unknown_fields=True, gc=False
    )


def blank(field: SourceField, marks: Collection[str]) -> frozenset[str]:
    """Texts of the field that say that it is missing."""
    return frozenset(marks) | ({""} if field.type in ("category", "text") else set())


def _type(field: SourceField, marks: Sequence[str], most: int, *, needed: bool) -> Any:
    """Type of a field's value, of at most `most` characters; of `needed` ones none that is missing."""
    missing = () if needed else tuple(blank(field, marks))
    kinds: list[Any] = [] if needed else [None]
    match field.type:
        case "number":
            low, high = bounds(field)
            kinds.append(Annotated[float, Meta(ge=max(low, -_EXACT), le=min(high, _EXACT))])
        case "boolean":
            kinds.append(bool)
        case _ if field.values is None:
            mark = rf"\A(?!(?:{'|'.join(map(re.escape, marks))})\Z)" if needed and marks else None
            kinds.append(Annotated[str, Meta(min_length=int(needed), max_length=most, pattern=mark)])
            missing = ()
        case _:
            fit = (value for value in field.values if 0 < len(value) <= most and value not in marks)
            missing = (*fit, *missing) or _NEVER
    if missing:
        kinds.append(_literal[missing])
    return _union[tuple(kinds)]
