"""Role of one column in the pipeline, by its name and its values."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.client.guess import names
from penstock.client.guess.kinds import Kind, as_codes, kind_of
from penstock.client.guess.table import Column

FEW_NUMBERS = 10


@dataclass(frozen=True)
class Field:
    column: Column
    kind: Kind
    protected: str = ""
    personal: str = ""
    left_out: str = ""
    """Reason why it is no input, besides the two above."""

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
    return Field(column, kind, why, personal or "", _useless(column, kind))


def _names_age(column: Column) -> bool:
    return names.protected(column.name) == "age"


def _useless(column: Column, kind: Kind) -> str:
    if not column.present:
        return "it is empty"
    if len(column.counts) == 1 and not column.missing:
        return "it has one value"
    if kind.type == "time":
        return "a time is no input; publish what it means, as days since"
    named, many = names.names_a_row(column.name), len(column.values) > 20
    if column.unique and many and (named or (kind.type == "text" and _is_token(column))):
        return "it names a row: each has its own"
    if column.unique and many and column.counts_up:
        return "it counts the rows"
    return ""


def _is_token(column: Column) -> bool:
    return all(" " not in text for text in list(column.counts)[:200])
