"""Times in a form that nothing here reads: as spreadsheets write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time

from penstock.client.declared import text_of

_CLOCK = r"(?:[ ,T]+\d{1,2}:\d\d(?::\d\d)?(?: ?[AaPp]\.?[Mm]\.?)?)?"
_DAY, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:\d{4}|\d\d)"
_MONTH = (
    "(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_NUMBERS = re.compile(rf"(?P<first>{_DAY})(?P<mark>[/.-])(?P<second>{_DAY})(?P=mark){_YEAR}{_CLOCK}")
_YEAR_FIRST = re.compile(rf"\d{{4}}([/.]){_DAY}\1{_DAY}{_CLOCK}")
_NAMED = re.compile(rf"(?:{_DAY}[ .-]+{_MONTH}[ ,-]+{_YEAR}|{_MONTH} {_DAY},? \d{{4}}){_CLOCK}")
_LOOKED_AT = 200
_MONTHS, _CENTURY = 12, 100


def unread(values: Sequence[object]) -> str:
    """Sentence on values that each look like a time in a form that is not read, with what to write;
    else empty.
    """
    texts = [text_of(value).strip() for value in values[:_LOOKED_AT]]
    if not texts or not (form := _form(texts)):
        return ""
    shown = _written(texts[0], form)
    of_it = f", `{texts[0]}` as `{shown}`" if shown else ", as `2026-01-31T18:05:00`"
    return f"it looks like times in a form that is not read ({form}): write them as RFC 3339 has them{of_it}"


def _form(texts: list[str]) -> str:
    if found := [match for text in texts if (match := _NUMBERS.fullmatch(text))]:
        if len(found) < len(texts):
            return ""
        first = max(int(match["first"]) for match in found)
        second = max(int(match["second"]) for match in found)
        match first > _MONTHS, second > _MONTHS:
            case True, False:
                return "day, month, year"
            case False, True:
                return "month, day, year"
            case False, False:
                return "day and month, in whichever order"
        return ""
    if all(_YEAR_FIRST.fullmatch(text) for text in texts):
        return "year, month, day, not joined by `-`"
    if all(_NAMED.fullmatch(text) for text in texts):
        return "with the month's name"
    return ""


def _written(text: str, form: str) -> str:
    """The time as RFC 3339 has it, without a zone; empty where its order is not known. Of two digits a
    year that is still to come is one of the century before.
    """
    order = {"day, month, year": (2, 1, 0), "month, day, year": (2, 0, 1)}.get(form)
    if order is None:
        return ""
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    year, month, day = (numbers[at] for at in order)
    if year < _CENTURY:
        year += 2000 if 2000 + year <= datetime.now(UTC).year else 1900
    hour, minute, second = [*numbers[3:], 0, 0, 0][:3]
    if re.search(r"[AaPp]\.?[Mm]", text):
        hour = hour % 12 + (12 if re.search(r"[Pp]\.?[Mm]", text) else 0)
    with suppress(ValueError):
        day_of_it = date(year, month, day)
        return f"{day_of_it}T{time(hour, minute, second)}"
    return ""
