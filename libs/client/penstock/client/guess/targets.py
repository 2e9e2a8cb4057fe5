"""The column that a model is to answer: each column gets points for what speaks for it and against.

The points are odds, roughly: three of them outweigh a place at the end. No column says more than its
own name, its place, and how many values it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from penstock.client.guess import outcomes
from penstock.client.guess.fields import FEW_NUMBERS, Field
from penstock.client.guess.kinds import as_codes
from penstock.client.guess.names import answer_yes_or_no, says_yes, words
from penstock.client.guess.table import Column, Table
from penstock.contracts.errors import Invalid
from penstock.contracts.measures import Task
from penstock.contracts.rules import nearest

_MOST_CLASSES = 100
_MANY_CLASSES = 12
_LOOKED_AT, _ROWS, _FEWEST_GROUPS = 5, 2_000, 20
CLOSE = 2.0
"""Points by which another column may be behind and is still asked about."""
BY_NAME, AS_SAID = "by its name", "as you said"


@dataclass(frozen=True)
class Target:
    field: Field
    task: Task
    positive: str | None = None
    why: str = ""
    close: tuple[str, ...] = ()
    """Fields that are nearly as likely; of a mere guess the next one at least."""

    @property
    def mere(self) -> bool:
        """Tells whether its name does not speak for it: its place or its values at most."""
        return self.why not in (AS_SAID, "") and BY_NAME not in self.why

    @property
    def because(self) -> str:
        return f"a mere guess, {self.why}" if self.mere else self.why


@dataclass(frozen=True)
class _Likely:
    field: Field
    points: float
    why: str


def target_of(fields: list[Field], table: Table, *, chosen: str | None, positive: str | None) -> Target:
    """The target and its type; `chosen` and `positive` are a person's. Raises Invalid where no column
    can be one.
    """
    able = [one for one in fields if _able(one)]
    said = [one for one in able if chosen in (one.name, one.column.name)]
    if chosen and not said:
        raise Invalid(
            f"`{chosen}` cannot be the target{nearest(chosen, [one.name for one in able])}",
            where=str(table.path),
            remedy="Choose a column with more than one value that is neither a text nor personal",
        )
    if not able:
        raise Invalid(
            "there is no column besides its id and its time that could be learned",
            where=str(table.path),
            remedy="Give what a model is to learn from, and a column with what it is to answer",
        )
    if said:
        return _typed(said[0], table, positive, AS_SAID)
    first, *others = _ranked(fields, able, table.path.stem)
    found = _typed(first.field, table, positive, first.why)
    others = [one for one in others if not one.field.protected]
    close = [one.field.name for one in others[:2] if one.points > first.points - CLOSE]
    if found.mere and not close:
        close = [one.field.name for one in others[:1]]
    return replace(found, close=tuple(close))


def _able(one: Field) -> bool:
    count = len(one.column.counts)
    if one.kind.type in ("time", "text") or one.personal or count < 2:
        return False
    return one.kind.type == "number" or count <= _MOST_CLASSES


def _ranked(fields: list[Field], able: list[Field], file: str) -> list[_Likely]:
    """The likeliest first; of equals the later one."""
    alone = sum(one.of_two and not one.protected for one in able) == 1
    series, named = _series(fields), {one.name.lower() for one in fields}
    censored = any(outcomes.names_a_censoring(one.column.name) and one.of_two for one in fields)
    subjects = [one for one in able if outcomes.is_the_subject(one.column.name, file)]
    lone = [one for one in able if one.name not in series and not one.protected]
    found = []
    for one in able:
        signs = [*_by_name(one), *_by_place(one, fields), *_by_values(one, alone=alone)]
        if censored and one.type == "number" and outcomes.names_a_duration(one.column.name):
            signs.append((3.0, BY_NAME))
        if _derived(one.name, named):
            signs.append((-2.0, ""))
        if outcomes.names_the_file(one.column.name, file):
            signs.append((6.0 if _answers(one.column) else -2.0, BY_NAME))
        elif subjects == [one] and not outcomes.names_a_circumstance(one.column.name):
            signs.append((3.0, BY_NAME))
        if one.name in series:
            signs.append((-2.0, ""))
        elif len(series) > len(able) / 2 and len(lone) <= 3:
            signs.append((2.0, "as the column beside a series"))
        whys = dict.fromkeys(why for points, why in signs if points > 0 and why)
        found.append(_Likely(one, sum(points for points, _ in signs), ", ".join(whys) or "as good as any"))
    found.sort(key=lambda likely: likely.points)
    found.reverse()
    for place, likely in enumerate(found[:_LOOKED_AT]):
        if _follows(likely.field.column, [one.column for one in fields]):
            found[place] = replace(likely, points=likely.points - 2.5)
    return sorted(found, key=lambda likely: -likely.points)


def _follows(column: Column, others: list[Column]) -> bool:
    """Tells whether another column determines this one, as a class its teacher, and not the reverse: it
    says something of a group of rows, and is no answer of a row.
    """
    rows = range(0, len(column.values), max(1, len(column.values) // _ROWS))
    own = [str(column.values[row]) for row in rows]
    for other in others:
        if other is column or not _FEWEST_GROUPS < len(other.counts) <= len(other.present) / 4:
            continue
        pairs = set(zip((str(other.values[row]) for row in rows), own, strict=True))
        if len({one for one, _ in pairs}) == len(pairs) > len(set(own)):
            return True
    return False


def _series(fields: list[Field]) -> set[str]:
    """Fields of three or more that differ by a number alone; not the last one of a series that skips
    numbers, as years: what came of it.
    """
    members: dict[str, list[tuple[int, Field]]] = {}
    for one in fields:
        if found := re.fullmatch(r"(\D*)(\d+)(\D*)", one.column.name):
            members.setdefault(f"{found[1]}#{found[3]}", []).append((int(found[2]), one))
    long = [sorted(each, key=lambda pair: pair[0]) for each in members.values() if len(each) > 2]
    skipping = {each[-1][1].name for each in long if each[-1][0] - each[0][0] >= len(each)}
    return {one.name for each in long for _, one in each} - (skipping & {fields[-1].name})


def _derived(name: str, others: set[str]) -> bool:
    """Tells whether a column is a power, a root or one value of another: an input."""
    if words(name)[:1] in (["ind"], ["dummy"], ["dum"]):
        return True
    found = re.fullmatch(r"(sqrt|sq)?_?(\w+?)_?(\d|sq|squared)?", name.lower())
    return bool(found and (found[1] == "sqrt" or ((found[1] or found[3]) and found[2] in others)))


def _answers(column: Column) -> bool:
    """Tells whether values are more than two, or one a yes; else they are kinds of what was studied."""
    return len(column.counts) > 2 or any(says_yes(value) for value in column.counts)


def _by_name(one: Field) -> Iterator[tuple[float, str]]:
    name, few = one.column.name, one.type != "number" or _few(one)
    if outcomes.names_a_target(name, few=few):
        yield 8.0, BY_NAME
    elif one.of_two and outcomes.names_an_event(name):
        yield 5.0, BY_NAME
    elif few and outcomes.names_a_result(name):
        yield 4.0, BY_NAME
    elif few and outcomes.may_name_a_target(name):
        yield 2.5, BY_NAME
    elif one.type == "number" and outcomes.names_an_amount(name):
        yield 3.0, BY_NAME
    elif one.type == "number" and outcomes.names_a_lesser_amount(name):
        yield 1.0, BY_NAME
    if outcomes.names_what_comes_after(name):
        yield 1.0, BY_NAME
    if outcomes.names_what_was_before(name):
        yield -3.0, ""
    if outcomes.names_a_circumstance(name) or (few and not one.of_two and outcomes.names_an_occasion(name)):
        yield -2.0, ""
    if outcomes.names_a_measure(name):
        yield -1.0, ""
    if one.protected:
        yield -5.0, ""
    if one.left_out:
        yield -6.0, ""


def _by_place(one: Field, fields: list[Field]) -> Iterator[tuple[float, str]]:
    if one.name.lower() == "y" and (len(fields) <= 3 or all(other.name.lower() != "x" for other in fields)):
        yield 8.0, BY_NAME  # else it is half of a place
    elif one is fields[-1]:
        yield 2.0, "as the last column"
    elif one is fields[0]:
        yield 1.5, "as the first column"


def _by_values(one: Field, *, alone: bool) -> Iterator[tuple[float, str]]:
    if one.of_two and not outcomes.names_a_circumstance(one.column.name):
        yield (2.0, "as the only one of two values") if alone else (1.0, "")
        if answer_yes_or_no(one.column.counts):
            yield 1.0, "as an answer of yes or no"
    elif one.type != "number" and len(one.column.counts) > _MANY_CLASSES:
        yield -2.0, ""


def _few(one: Field) -> bool:
    return len(one.column.counts) <= FEW_NUMBERS and (one.column.whole or one.of_two)


def _typed(one: Field, table: Table, positive: str | None, why: str) -> Target:
    one = replace(one, left_out="", protected="", personal="")
    counts = one.column.counts
    if one.kind.type == "boolean":
        return Target(one, "binary", positive or "true", why)
    if len(counts) == 2:
        coded = one.kind.type == "number" and not table.textual
        # A number in JSON stays one: an event of a program that publishes by itself is no text.
        kind = replace(one.kind, range=_span(one.column)) if coded else as_codes(one.column)
        return Target(replace(one, kind=kind), "binary", positive or _positive(one.column), why)
    if one.kind.type == "category" or _codes(one.column):
        return Target(replace(one, kind=as_codes(one.column)), "multiclass", None, why)
    return Target(one, "regression", None, why)


def _codes(column: Column) -> bool:
    """Tells whether numbers name classes: few, and none left out, as counts have it."""
    numbers = sorted(set(column.numbers or []))
    return column.whole and len(numbers) <= FEW_NUMBERS and numbers[-1] - numbers[0] < 2 * len(numbers) - 1


def _span(column: Column) -> tuple[float, float]:
    numbers = column.numbers or [0.0]
    return (float(min(numbers)), float(max(numbers)))


def _positive(column: Column) -> str:
    """The value of two that says yes; else the rarer one."""
    values = sorted(column.counts, key=lambda text: (column.counts[text], text))
    yes = [value for value in values if says_yes(value)]
    if {"0", "1"} == set(values):
        return "1"
    return yes[0] if len(yes) == 1 else values[0]
