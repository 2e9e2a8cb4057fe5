"""The `tuner` section of a study: the file's, with the budget that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline.tuner import Budget, Tuner, formulas

_TUNER: TypeAdapter[Tuner] = TypeAdapter(Tuner)


def parsed(section: Mapping[str, JsonValue] | None) -> Tuner:
    """Defaults where it is left out. Raises ValueError for one of another release."""
    return _TUNER.validate_python(section or {})


def check(section: Mapping[str, JsonValue] | None) -> None:
    """Raises Invalid for a section that is none."""
    try:
        parsed(section)
    except ValidationError as error:
        raise _invalid(error, "tuner") from error


def objectives(tuner: Tuner) -> list[str]:
    """Name of each objective, or its formula where there is one alone."""
    return [formula if name == "minimize" else name for name, formula in formulas(tuner).items()]


def asked_for(section: Mapping[str, JsonValue], trials: int, time_s: float) -> dict[str, Any]:
    """The pipeline's `tuner` section with so many trials and so much time, where they are not 0. Raises
    Invalid.
    """
    asked = _bounds(trials, time_s)
    return {**section, "budget": {**_budget(section), **asked}} if asked else dict(section)


def extended(
    section: Mapping[str, JsonValue], tried: int, spent_s: float, trials: int, time_s: float
) -> dict[str, Any]:
    """The section of a study that goes on for so many trials more, or so many seconds, or whichever is
    spent first: the patience that may have ended it counts no more. Raises Invalid where it is told
    neither.
    """
    if not trials and not time_s:
        raise Invalid(
            "an extension of nothing", where="trials", remedy="Say how many further trials, or how much time"
        )
    kept = {name: value for name, value in _budget(section).items() if name == "memory"}
    more = _bounds(trials and tried + trials, time_s and spent_s + time_s)
    return {**section, "budget": {**kept, **more}}


def _budget(section: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    found = section.get("budget")
    return found if isinstance(found, Mapping) else {}


def _bounds(trials: int, time_s: float) -> dict[str, JsonValue]:
    said: dict[str, JsonValue] = {"trials": trials} if trials else {}
    if time_s:
        said["time"] = f"{time_s:.0f}s"
    try:
        Budget.model_validate(said)
    except ValidationError as error:
        raise _invalid(error) from error
    return said


def _invalid(error: ValidationError, *at: str) -> Invalid:
    first = error.errors(include_url=False)[0]
    return Invalid(first["msg"], where=".".join(map(str, (*at, *first["loc"]))))
