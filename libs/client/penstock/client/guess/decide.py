"""Decides what each column is to the pipeline: pure, from the sample and a person's answers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from penstock.client.declared import text_of
from penstock.client.guess import names
from penstock.client.guess.kinds import Kind, as_codes, is_time, kind_of
from penstock.client.guess.table import Column, Table
from penstock.contracts.dataplane import zoneless
from penstock.contracts.errors import Invalid
from penstock.contracts.measures import Task
from penstock.contracts.rules import nearest

_IDS = re.compile(
    r"(?:^|[_.-])(?i:id|uuid|guid|key|nr|number|no|rownames|index)$|[a-z](?:Id|ID|Uuid|UUID|Key)$"
)
_NAMES_A_TIME = re.compile(
    r"(?:^|_)(?:ts|at|on|time|timestamp|date|datum|fecha)$|(?:Time|Date|Timestamp)$|^(?:time|date|timestamp)",
    re.IGNORECASE,
)
_FEW_NUMBERS = 10
_MOST_CLASSES = 100
LAST = "the last column"
"""Why a target was taken that nothing speaks for."""
FIRST = "the first column"


@dataclass(frozen=True)
class Answers:
    """Decisions of a person, which come before any guess; columns by the names of their fields."""

    target: str | None = None
    positive: str | None = None
    id: str | None = None
    timestamp: str | None = None
    protected: tuple[str, ...] | None = None
    kept: tuple[str, ...] = ()
    """Inputs in spite of a suspicion."""


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


@dataclass(frozen=True)
class Target:
    field: Field
    task: Task
    positive: str | None = None
    why: str = ""


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
    """What the measure is for who knows nothing of a row."""


@dataclass(frozen=True)
class Guess:
    table: Table
    id: Column | None
    entity: Column | None
    timestamp: Column | None
    target: Target
    fields: tuple[Field, ...]
    """All but id, entity and timestamp, the target among them."""

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
    timestamp = _chosen(columns, answers.timestamp) or _timestamp(table.columns)
    rest = [column for column in table.columns if column is not timestamp]
    identity = _chosen(columns, answers.id) or _identity(rest)
    entity = identity or None
    repeated = None if identity and not identity.unique else _entity(rest, identity)
    if repeated:
        entity = repeated
    unique = identity if identity and identity.unique else None
    taken = {column.field for column in (unique, entity, timestamp) if column}
    fields = [_field(column, table, answers) for column in table.columns if column.field not in taken]
    target = _target(fields, table, answers)
    settled = [target.field if one.name == target.field.name else one for one in fields]
    return Guess(table, unique, entity, timestamp, target, tuple(settled))


def suspected(guess: Guess, found: Mapping[str, str], kept: Iterable[str]) -> Guess:
    """The guess with fields left out for the reasons `found`, but for those `kept`."""
    doubts = {name: why for name, why in found.items() if name not in set(kept)}
    fields = tuple(
        replace(one, left_out=doubts[one.name]) if one.name in doubts and not one.left_out else one
        for one in guess.fields
    )
    return replace(guess, fields=fields)


def _chosen(columns: Mapping[str, Column], name: str | None) -> Column | None:
    return columns.get(name) if name else None


def _timestamp(columns: Iterable[Column]) -> Column | None:
    for column in columns:
        named = bool(_NAMES_A_TIME.search(column.field))
        if not column.missing and is_time(column, seconds=named) and not names.protected(column.name):
            return column
    return None


def _identity(columns: list[Column]) -> Column | None:
    """The column that names a row: unique, and named so or counting."""
    able = [column for column in columns if column.unique and (column.numbers is None or column.whole)]
    for column in able:
        if _IDS.search(column.name) or column.name == "":
            return column
    first = next((column for column in able if column is columns[0]), None)
    if first and first.numbers and _counts_up(first.numbers):
        return first
    return None


def _counts_up(numbers: list[float]) -> bool:
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    return len(steps) <= 3 and min(steps, default=0) > 0


def _entity(columns: list[Column], identity: Column | None) -> Column | None:
    """A column that names somebody with more than one row: a person rather than a thing."""
    for column in sorted(columns, key=lambda column: not names.names_somebody(column.name)):
        if column is identity or column.unique or column.missing or not _IDS.search(column.name):
            continue
        if column.name.lower().endswith(("number", "no", "index", "nr")):
            continue
        if len(column.counts) > 20 and (column.numbers is None or column.whole):
            return column
    return None


def _field(column: Column, table: Table, answers: Answers) -> Field:
    kind = kind_of(column, listed=table.whole)
    protected = names.protected(column.name) or ""
    if not protected and kind.type == "category":
        protected = names.protected_values(column.counts) or ""
    if answers.protected is not None:
        protected = (protected or "named by you") if column.field in answers.protected else ""
    personal = names.personal(column.name, list(column.counts))
    few = len(column.counts) <= _FEW_NUMBERS
    if protected and kind.type == "number" and few and column.whole and not _names_age(column):
        kind = as_codes(column)
    return Field(column, kind, protected, personal or "", _useless(column, kind, table))


def _names_age(column: Column) -> bool:
    return names.protected(column.name) == "age"


def _useless(column: Column, kind: Kind, table: Table) -> str:
    if not column.present:
        return "it is empty"
    if len(column.counts) == 1 and not column.missing:
        return "it has one value"
    if kind.type == "time":
        return "a time is no input; publish what it means, as days since"
    named = bool(_IDS.search(column.name))
    if column.unique and len(column.values) > 20 and (named or (kind.type == "text" and _is_token(column))):
        return "it names a row: each has its own"
    if column.unique and column.whole and len(column.values) > 20 and _counts_up(column.numbers or []):
        return "it counts the rows"
    return ""


def _is_token(column: Column) -> bool:
    return all(" " not in text for text in list(column.counts)[:200])


def _target(fields: list[Field], table: Table, answers: Answers) -> Target:
    able = [one for one in fields if _able(one)]
    chosen = [one for one in able if one.name == answers.target or one.column.name == answers.target]
    if answers.target and not chosen:
        raise Invalid(
            f"`{answers.target}` cannot be the target{nearest(answers.target, [one.name for one in able])}",
            where=str(table.path),
            remedy="Choose a column with more than one value that is neither a text nor personal",
        )
    if not able:
        raise Invalid(
            "there is no column besides its id and its time that could be learned",
            where=str(table.path),
            remedy="Give what a model is to learn from, and a column with what it is to answer",
        )
    found, why = (chosen[0], "as you said") if chosen else _most_likely(fields, able)
    return _typed_target(replace(found, left_out="", protected="", personal=""), table, answers, why)


def _most_likely(fields: list[Field], able: list[Field]) -> tuple[Field, str]:
    """The field that is most likely the target, and why: by its name, else the last one; or the first if
    that alone has two values, or has classes while none that can be the target stands last.
    """
    named = [one for one in able if names.names_a_target(one.column.name)]
    named += [one for one in fields[-1:] if one in able and one.name.lower() == "y"]
    free = [one for one in able if not one.protected]
    events = [one for one in free if _of_two(one) and names.names_an_event(one.column.name)]
    likely = [one for one in free if names.may_name_a_target(one.column.name)]
    perhaps = [one for one in likely if one.type != "number" or _of_two(one)]
    amounts = [one for one in free if one.type == "number" and names.names_an_amount(one.column.name)]
    if by_name := named or events or perhaps or amounts:
        return by_name[-1], "by its name"
    free = free or able[-1:]
    begins, ends = free[0] is fields[0], free[-1] is fields[-1]
    alone = _of_two(free[0]) and not _of_two(free[-1])
    if begins and (alone or (free[0].type == "category" and not ends)):
        return free[0], FIRST
    return free[-1], LAST


def _of_two(one: Field) -> bool:
    return len(one.column.counts) == 2


def _able(one: Field) -> bool:
    count = len(one.column.counts)
    if one.kind.type in ("time", "text") or one.personal or count < 2:
        return False
    return one.kind.type == "number" or count <= _MOST_CLASSES


def _typed_target(one: Field, table: Table, answers: Answers, why: str) -> Target:
    counts = one.column.counts
    if one.kind.type == "boolean":
        return Target(one, "binary", answers.positive or "true", why)
    if len(counts) == 2:
        coded = one.kind.type == "number" and not table.textual
        # A number in JSON stays one: an event of a program that publishes by itself is no text.
        kind = replace(one.kind, range=_span(one.column)) if coded else as_codes(one.column)
        return Target(replace(one, kind=kind), "binary", answers.positive or _positive(one.column), why)
    few = len(counts) <= _FEW_NUMBERS and one.column.whole
    if one.kind.type == "category" or few:
        return Target(replace(one, kind=as_codes(one.column)), "multiclass", None, why)
    return Target(one, "regression", None, why)


def _span(column: Column) -> tuple[float, float]:
    numbers = column.numbers or [0.0]
    return (float(min(numbers)), float(max(numbers)))


def _positive(column: Column) -> str:
    """The value of two that says yes; else the rarer one."""
    values = sorted(column.counts, key=lambda text: (column.counts[text], text))
    yes = [value for value in values if names.says_yes(value)]
    if {"0", "1"} == set(values):
        return "1"
    return yes[0] if len(yes) == 1 else values[0]
