"""Decides what each column is to the pipeline: pure, from the sample and a person's answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean, pvariance

from penstock.client.declared import text_of
from penstock.client.guess import names, outcomes
from penstock.client.guess.fields import Field, field_of, is_an_index, is_of_ids
from penstock.client.guess.kinds import is_time
from penstock.client.guess.table import Column, Table
from penstock.client.guess.targets import Target, target_of
from penstock.contracts.dataplane import zoneless

_NAMES_A_TIME = re.compile(
    r"(?:^|_)(?:ts|at|on|time|timestamp|date|datum|fecha)$|(?:Time|Date|Timestamp)$|^(?:time|date|timestamp)",
    re.IGNORECASE,
)
_FEWEST_PEOPLE = 20
_ROWS_OF_A_GROUP = (3, 30)
_FEWEST_TOLD = 2  # columns: one alone may be the same thing in other words


@dataclass(frozen=True)
class Answers:
    """Decisions of a person, which come before any guess; columns by the names of their fields, of an id
    or a timestamp "" for none.
    """

    target: str | None = None
    positive: str | None = None
    id: str | None = None
    timestamp: str | None = None
    protected: tuple[str, ...] | None = None
    kept: tuple[str, ...] = ()
    """Inputs in spite of a suspicion."""


@dataclass(frozen=True)
class Baseline:
    """Logistic or ridge regression by cross-validation on the sample: its mean, and its standard error on
    as many rows as the audit will have.
    """

    measure: str
    mean: float
    error: float
    rows: int
    model: str
    guessing: float
    """Measure's value for who knows nothing of a row."""
    doubted: tuple[str, ...] = ()
    """Inputs that were left out for it, as it is doubted whether they are known beforehand."""
    with_doubted: float | None = None
    """Mean with them, where it is known."""


@dataclass(frozen=True)
class Guess:
    table: Table
    id: Column | None
    entity: Column | None
    timestamp: Column | None
    target: Target
    fields: tuple[Field, ...]
    """Fields besides id, entity and timestamp, the target among them."""

    def inputs(self) -> list[Field]:
        return [one for one in self.fields if one.input and one.name != self.target.field.name]

    @property
    def zoneless(self) -> bool:
        values = self.timestamp.present if self.timestamp else []
        return any(zoneless(text_of(value).replace(" ", "T")) or zoneless(text_of(value)) for value in values)


def decide(table: Table, answers: Answers) -> Guess:
    """Decides by names, types and a person's answers; leaks come after, by `suspected`. Raises Invalid
    where no column can be a target.
    """
    columns = {column.field: column for column in table.columns}
    timestamp = _chosen(columns, answers.timestamp, _timestamp(table.columns))
    rest = [column for column in table.columns if column is not timestamp]
    identity = _chosen(columns, answers.id, _identity(rest))
    entity = identity or None
    repeated = None if identity and not identity.unique else _entity(rest, identity)
    if repeated:
        entity = repeated
    unique = identity if identity and identity.unique else None
    taken = {column.field for column in (unique, entity, timestamp) if column}
    fields = [
        field_of(column, listed=table.whole, protected=answers.protected)
        for column in table.columns
        if column.field not in taken
    ]
    target = target_of(fields, table, chosen=answers.target, positive=answers.positive)
    settled = [target.field if one.name == target.field.name else one for one in fields]
    return Guess(table, unique, entity, timestamp, target, tuple(settled))


def suspected(guess: Guess, found: Mapping[str, str], kept: Iterable[str]) -> Guess:
    """Guess with fields left out for the reasons `found`, but for those `kept`."""
    doubts = {name: why for name, why in found.items() if name not in set(kept)}
    fields = tuple(
        replace(one, left_out=doubts[one.name]) if one.name in doubts and not one.left_out else one
        for one in guess.fields
    )
    return replace(guess, fields=fields)


def doubted(guess: Guess, found: Mapping[str, str]) -> Guess:
    """Guess with the doubts `found`, by field."""
    return replace(guess, fields=tuple(replace(one, doubt=found.get(one.name, "")) for one in guess.fields))


def _chosen(columns: Mapping[str, Column], name: str | None, guessed: Column | None) -> Column | None:
    return guessed if name is None else columns.get(name)


def _timestamp(columns: Iterable[Column]) -> Column | None:
    for column in columns:
        named = bool(_NAMES_A_TIME.search(column.field))
        if not column.missing and is_time(column, seconds=named) and not names.protected(column.name):
            return column
    return None


def _identity(columns: list[Column]) -> Column | None:
    """The column that names a row: unique, and named so, of ids, or counting."""
    able = [
        column
        for column in columns
        if column.unique and (column.numbers is None or column.whole) and not is_an_index(column)
    ]
    for column in able:
        if names.names_a_row(column.name) or column.name == "":
            return column
    for column in able:
        if is_of_ids(column):
            return column
    first = next((column for column in able if column is columns[0]), None)
    if first and (first.counts_up or first.numbers_rows):
        return first
    return None


def _entity(columns: list[Column], identity: Column | None) -> Column | None:
    """A column that names somebody with more than one row: a person rather than a thing."""
    for column in sorted(columns, key=lambda column: not names.names_somebody(column.name)):
        named = names.names_a_row(column.name) or names.is_somebody(column.name)
        if column is identity or column.unique or column.missing or not named:
            continue
        if column.name.lower().endswith(("number", "no", "index", "nr")):
            continue
        if len(column.counts) > _FEWEST_PEOPLE and (column.numbers is None or column.whole):
            return column
    first = columns[0] if columns and identity is None else None
    return first if first and (_asked_as_often(first) or _is_a_group(first, columns[1:])) else None


def _asked_as_often(column: Column) -> bool:
    """Tells whether a column numbers those of a panel, each asked about as often: counts from about 1, each
    with rows that vary less than chance has them (index of dispersion). A time is none of them.
    """
    counts = list(column.counts.values())
    if column.missing or not column.whole or outcomes.names_a_time(column.name):
        return False
    numbered = len(counts) > _FEWEST_PEOPLE and 0 <= min(column.numbers or [0]) <= 1
    return numbered and fmean(counts) >= 3 and pvariance(counts) < fmean(counts) / 4


def _is_a_group(column: Column, others: list[Column]) -> bool:
    """Tells whether rows belong together by this column, as children to a family: whole numbers or texts,
    each of a few rows, that determine what other columns say, numbers among them. A time is none.
    """
    named = column.numbers is None or column.whole
    if column.missing or not named or outcomes.names_a_time(column.name):
        return False
    few, many = _ROWS_OF_A_GROUP
    if len(column.counts) <= _FEWEST_PEOPLE or not few <= len(column.values) / len(column.counts) <= many:
        return False
    told = [one for one in others if len(one.counts) > 1 and column.determines(one)]
    return len(told) >= _FEWEST_TOLD and any(one.numbers for one in told)
