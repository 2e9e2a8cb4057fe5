"""Parts of every section of the pipeline file: names, durations, a model that knows its keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, NewType

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from penstock.contracts.durations import DURATION, format_duration, parse_duration
from penstock.contracts.sizes import SIZE, format_size, parse_size

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
FieldReference = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}\.[A-Za-z_][A-Za-z0-9_]{0,62}$")
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*{DURATION.pattern}\s*$"}),
]
Bytes = NewType("Bytes", int)
Memory = Annotated[
    Bytes,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": rf"^\s*{SIZE.pattern}\s*$"}),
]
Scalar = bool | int | float | str


def text_of(value: Scalar) -> str:
    """A scalar as it is written in a pipeline file, and as a class is called: true, 1, 2.5, home."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


class Model(BaseModel):
    """Frozen; an unknown key is an error, and so is a number that is none.

    A new key has a default and an `exclude_if` that leaves it out while it has it: pipelines that are
    stored and packages that are signed keep their bytes. `docs/add-a-key.md` says more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def named(value: Any) -> Any:
    """Keys that were named, also those not written because they are the default."""
    if not isinstance(value, BaseModel):
        return value
    return {name: named(getattr(value, name)) for name in value.model_fields_set}
