"""Doubts about inputs of which one value, or one side, has nearly one answer. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from penstock.client.declared import text_of
from penstock.client.guess.decide import Guess
from penstock.client.guess.fields import Field
from penstock.client.guess.kinds import FEW

_EXPECTED = 20.0
"""Exceptions that as many rows like all others have, from which their lack is no chance."""
_LEFT = 0.1
"""Share of these exceptions that are there at most."""

Part = tuple[str, Counter[str]]
"""Rows of a column in words, and their labels."""


def doubts(guess: Guess) -> dict[str, str]:
    """Doubts by input, of a target with classes: the part of its rows that lacks the most exceptions."""
    if guess.target.task == "regression":
        return {}
    target = guess.target.field
    labels = [None if value is None else text_of(value) for value in target.column.values]
    everywhere = Counter(label for label in labels if label is not None)
    found = {}
    for one in guess.inputs():
        parts = _parts(one, labels)
        if likely := [doubt for part in parts if (doubt := _doubt(part, everywhere, target.name))]:
            found[one.name] = max(likely)[1]
    return found


def _doubt(part: Part, everywhere: Counter[str], target: str) -> tuple[float, str] | None:
    """Exceptions that are not there, though expected, and the doubt in words."""
    words, here = part
    for label, usual in everywhere.items():
        expected = here.total() * (1 - usual / everywhere.total())
        exceptions = here.total() - here[label]
        if expected >= _EXPECTED and exceptions <= _LEFT * expected:
            said = f"{here[label]:,} of {here.total():,} rows with {words} have `{target}` {label[:30]}"
            share = f"{usual / everywhere.total():.1%}"
            return expected - exceptions, f"{said}, {share} of all do: when is it known?"
    return None


def _parts(one: Field, labels: list[str | None]) -> Iterator[Part]:
    """Parts: each of few values; what is 0 and what above, of numbers that are not below; what is missing,
    and what not.
    """
    name = f"`{one.name}`"
    by_value: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
    for value, label in zip(one.column.values, labels, strict=True):
        if label is not None:
            by_value[None if value is None else text_of(value)][label] += 1
    missing = by_value.pop(None, None)
    if missing:
        yield f"{name} missing", missing
        yield f"{name} not missing", _together(by_value.values())
    if one.type == "text":
        return
    if len(by_value) <= FEW:
        yield from ((f"{name} {value}"[:60], here) for value, here in by_value.items())
    if one.type == "number" and len(by_value) > 2 and min(one.column.numbers or [0]) == 0:
        above = (here for value, here in by_value.items() if float(value or 0) > 0)
        yield f"{name} > 0", _together(above)
        if len(by_value) > FEW:
            yield f"{name} 0", _together(here for value, here in by_value.items() if not float(value or 0))


def _together(parts: Iterable[Counter[str]]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return whole
