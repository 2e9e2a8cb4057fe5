"""`7d`, `30m`, `250ms`: durations as people write them."""

import re
from datetime import timedelta

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_LONGEST = timedelta(days=36_500)
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def parse_duration(text: object) -> timedelta:
    """`7d` → 7 days. Raises ValueError that says what would be right."""
    if isinstance(text, timedelta):
        return text
    if isinstance(text, str) and (found := DURATION.fullmatch(text.strip())):
        number, unit = float(found[1]), _UNITS[found[2]]
        if number > _LONGEST / unit:
            raise ValueError(f"{text.strip()[:20]} is longer than {format_duration(_LONGEST)}")
        return number * unit
    raise ValueError(f"{text!r} is no duration; write a number and one of ms, s, m, h, d, as in 7d")


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back."""
    rounded = timedelta(milliseconds=round(duration / _UNITS["ms"]))
    fits = (f"{rounded // size}{unit}" for unit, size in reversed(_UNITS.items()) if not rounded % size)
    return next(fits) if rounded else "0ms"
