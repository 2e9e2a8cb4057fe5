"""Role of one column in the pipeline, by its name and its values."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from penstock.client.guess import names
from penstock.client.guess.kinds import Kind, as_codes, kind_of
from penstock.client.guess.table import Column

FEW_NUMBERS = 10
_MANY = 20
"""Rows from which a value that each has of its own says something."""
_ELDERLY, _OLDEST = 120, 150.0
"""Years up to which a number called an age is one of a person, and years that nobody reaches."""
_AN_INDEX = re.compile(r"(?:unnamed: \d+|index|row[._]?names?)?", re.IGNORECASE)
"""Name that a table's index gets in a CSV that was written with it."""
_NEARLY = 0.99
"""Share of different values from which an index is one, though some rows stand in the file twice."""
_UNITS = frozenset({"day", "days", "week", "weeks", "month", "months", "mth", "mths"})


@dataclass(frozen=True)
class Field:
    column: Column
    kind: Kind
    protected: str = ""
    personal: str = ""
    left_out: str = ""
    """Reason why it is no input, besides the two above."""
    doubt: str = ""
    """Question that a person should ask of it, though it is an input."""

    @property
    def name(self) -> str:
        return self.column.field

    @property
    def type(self) -> str:
        """Type in the file: a time that is not the event's is a text."""
        return "text" if self.kind.type == "time" else self.kind.type

    @property
    def input(self) -> bool:
        return not (self.protected or self.personal or self.left_out)

    @property
    def of_two(self) -> bool:
        return len(self.column.counts) == 2


def field_of(column: Column, *, listed: bool, protected: tuple[str, ...] | None) -> Field:
    """`listed`: the sample is all there is. `protected`: fields that a person named, None where nobody
    was asked.
    """
    kind = kind_of(column, listed=listed)
    why = names.protected(column.name) or ""
    if not why and kind.type == "category":
        why = names.protected_values(column.counts) or ""
    if protected is not None:
        why = (why or "named by you") if column.field in protected else ""
    personal = names.personal(column.name, list(column.counts))
    few = len(column.counts) <= FEW_NUMBERS
    if why and kind.type == "number" and few and column.whole and not _names_age(column):
        kind = as_codes(column)
    elif _is_years_of_people(column, kind):
        kind = replace(kind, range=(0.0, _OLDEST))
    return Field(column, kind, why, personal or "", _useless(column, kind))


def _names_age(column: Column) -> bool:
    return names.protected(column.name) == "age"


def _is_years_of_people(column: Column, kind: Kind) -> bool:
    if not _names_age(column) or kind.type != "number" or not column.whole:
        return False
    return 0 <= min(column.numbers or [0]) <= max(column.numbers or [0]) <= _ELDERLY and not (
        _UNITS & set(names.words(column.name))
    )


def _useless(column: Column, kind: Kind) -> str:
    if not column.present:
        return "it is empty"
    if len(column.counts) == 1 and not column.missing:
        return "it has one value"
    if kind.unread:
        return kind.unread
    if kind.type == "time":
        return "a time is no input; publish what it means, as days since"
    many = len(column.values) > _MANY
    if is_an_index(column):
        return "it numbers the rows, as the index of the table that was written"
    if column.unique and many and (names.names_a_row(column.name) or is_of_ids(column)):
        return "it names a row: each has its own"
    if column.unique and many and column.counts_up:
        return "it counts the rows"
    return ""


def is_an_index(column: Column) -> bool:
    """Tells whether a column holds a row's place in the table that was written, by its name or for want of
    one: of another file, the same number is another row.
    """
    named = _AN_INDEX.fullmatch(column.name)
    return bool(named) and column.whole and len(column.counts) >= _NEARLY * len(column.values)


def is_of_ids(column: Column) -> bool:
    """Tells whether each of many rows has a text without a space of its own, which finds no person."""
    if not column.unique or len(column.values) <= _MANY or names.personal(column.name, list(column.counts)):
        return False
    return kind_of(column, listed=True).type == "text" and all(" " not in text for text in column.counts)
