"""`2GB`, `512MB`: amounts of memory as people write them."""

import re

SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(MB|GB|TB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_LARGEST = 1000 * _UNITS["TB"]


def parse_size(text: object) -> int:
    """`2GB` → bytes, in whole MB. Raises ValueError that says what would be right."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    if isinstance(text, str) and (found := SIZE.fullmatch(text.strip())):
        megabytes = round(float(found[1]) * _UNITS[found[2]] / _UNITS["MB"])
        if 0 < megabytes <= _LARGEST // _UNITS["MB"]:
            return megabytes * _UNITS["MB"]
    raise ValueError(f"{text!r} is no amount of memory; write a number and one of MB, GB, TB, as in 2GB")


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads back."""
    return next(f"{size // of}{unit}" for unit, of in reversed(_UNITS.items()) if not size % of)
