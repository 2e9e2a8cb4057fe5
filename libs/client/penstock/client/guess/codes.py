"""Values that may be codes for a missing one: numbers that repeat, far from all others, and words. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher

from penstock.client.guess.names import listed
from penstock.client.guess.table import Column

_MOST = 3  # codes of one column
_FEWEST = 20  # other values, with repeats
_SCALE = 4  # other values, of which fewer are a scale around 0
_FAR = 10
"""Multiple of the others' own extent from which any number is far from them."""
_MOST_WORDS, _LEAST_LETTERS, _ALIKE, _TIMES = 50, 4, 0.85, 20
_UNKNOWN = listed("unk unknown unspecified undetermined undisclosed missing unbekannt inconnu desconocido")
_UNKNOWN |= {"n/a", "not known", "not stated", "not reported", "no answer", "keine angabe", "k.a.", "k. a."}
_UNKNOWN |= {"-", "--", ".", "n.d.", "s/d", "non renseigné", "no consta"}
_LETTER = "u"  # beside two others or more, as M and F
_LIKE_A_CODE = re.compile(r"(\d)\1+|10{3,}")


@dataclass(frozen=True)
class Code:
    """A number that may stand for a missing value."""

    value: float
    count: int


def codes_of(column: Column) -> tuple[list[Code], tuple[float, float]]:
    """Likely codes of a column of numbers, the most distant first, and where its other values lie.

    A code repeats, and is the only negative number, or as far from the others as these reach (999, 666),
    or ten times as far whatever its digits.
    """
    counts = Counter(filter(math.isfinite, map(float, column.numbers or [])))
    found: list[Code] = []
    while len(found) < _MOST and len(counts) > 2 and counts.total() > _FEWEST:
        value = next((value for value in (max(counts), min(counts)) if _is_code(value, counts)), None)
        if value is None:
            break
        found.append(Code(value, counts.pop(value)))
    return found, (min(counts, default=0.0), max(counts, default=0.0))


def gap_asked(column: Column, *, listed: bool, required: bool) -> str:
    """Question of a person whether texts of the column stand for a missing value, with all that is to be
    written if so; else empty. `listed`: its values are; `required`: it is.
    """
    short = len(column.counts) > 2
    found = [
        f"`{text}` ({count:,} times)"
        for text, count in column.counts.items()
        if (said := text.strip().lower()) in _UNKNOWN or (short and said == _LETTER)
    ]
    if not found:
        return ""
    gaps, it = ("a gap", "it") if len(found) == 1 else ("gaps", "them")
    steps = [f"name {it} in `missing`"]
    steps += [f"take {it} out of every `values`"] if listed else []
    steps += ["leave out `required`"] if required else []
    return f"{' and '.join(found)}: {gaps}? Then {', '.join(steps)}"


def misspelt_asked(column: Column, *, listed: bool) -> str:
    """Question of a person whether rare texts of the column are frequent ones, written otherwise: `femal`
    beside `female`; else empty. `listed`: its values are; those of another are not written here, either.
    """
    if len(column.counts) > _MOST_WORDS:
        return ""
    counts = column.counts
    found = {text: meant for text, count in counts.items() if (meant := _meant(text, count, counts))}
    if not found:
        return ""
    if not listed:
        rows = sum(counts[text] for text in found)
        return f"{rows:,} of the rows looked at have a rare text that is nearly a frequent one: mend them?"
    said = ", ".join(f"`{text}` ({counts[text]:,} times) `{meant}`" for text, meant in found.items())
    return f"is {said}? Then mend the rows"


def _meant(text: str, count: int, counts: Counter[str]) -> str | None:
    """The text that is as much as written so, and many times as frequent."""
    for other, times in counts.items():
        plain, of_other = text.strip().casefold(), other.strip().casefold()
        near = plain == of_other or (
            len(plain) >= _LEAST_LETTERS
            and not any(map(str.isdigit, plain + of_other))
            and SequenceMatcher(None, plain, of_other).ratio() >= _ALIKE
        )
        if times >= _TIMES * count and near:
            return other
    return None


def _is_code(value: float, counts: Counter[float]) -> bool:
    others = [other for other in counts if other != value]
    low, high = min(others), max(others)
    if counts[value] < 2 or counts.total() - counts[value] < _FEWEST:
        return False
    if value < 0 <= low:
        return value.is_integer() and len(others) >= _SCALE
    distance = max(value - high, low - value)
    like = _LIKE_A_CODE.fullmatch(str(int(abs(value))))
    return distance >= (1 if like else _FAR) * (high - low)


def asked(column: Column) -> str:
    """Question of a person whether numbers of the column are codes, with what to write if so; else empty."""
    found, (low, high) = codes_of(column)
    if not found:
        return ""
    said = " and ".join(f"{code.value:.10g} ({code.count:,} times)" for code in found)
    codes = "a code for missing" if len(found) == 1 else "codes for missing"
    true = f"range: [{min(0, math.floor(low))}, {math.ceil(high)}], on_violation: set_missing"
    where = f"apart from the rest, {low:.6g} to {high:.6g}"
    return f"{said} {where}: {codes}? Then `{true}`, without `required`"
