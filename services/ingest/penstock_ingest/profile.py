"""What accepted values look like: per field, how often present, mean and spread of numbers, the most frequent categories.

Profiles add up: a batch's to the partition's, the partitions' to the source's. Means and sums of squares are joined by the pairwise
algorithm of Chan, Golub and LeVeque (1979). A personal field is profiled only as present or missing: the smallest income is somebody's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from penstock.contracts.dataplane import Value
from penstock.contracts.pipeline import SourceField

MAX_VALUES = 50
"""Most frequent values kept of a field. One that becomes frequent late is undercounted by what was dropped before."""
MAX_VALUE = 64
"""Characters kept of a value."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of a number field's present values."""

    mean: float
    squares: float
    """Sum of squared distances from the mean."""
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class FieldProfile:
    present: int = 0
    missing: int = 0
    moments: Moments | None = None
    values: Counter[str] = field(default_factory=Counter)

    @property
    def standard_deviation(self) -> float | None:
        """Of the sample; None below two values."""
        return math.sqrt(self.moments.squares / (self.present - 1)) if self.moments and self.present > 1 else None

    def __add__(self, other: FieldProfile) -> FieldProfile:
        return FieldProfile(
            self.present + other.present,
            self.missing + other.missing,
            _join(self.present, self.moments, other.present, other.moments),
            Counter(dict((self.values + other.values).most_common(MAX_VALUES))),
        )


Profile = Mapping[str, FieldProfile]


def add(left: Profile, right: Profile) -> Profile:
    """A field that only one of them has keeps what it has: pipelines gain fields."""
    return {name: left.get(name, FieldProfile()) + right.get(name, FieldProfile()) for name in {**left, **right}}


def profile(declared: Mapping[str, SourceField], records: Sequence[Mapping[str, Value]]) -> Profile:
    """Of one batch, column by column. `records` hold every declared field."""
    if not records:
        return {}
    return {name: _column(declaration, [record[name] for record in records]) for name, declaration in declared.items()}


def _column(declaration: SourceField, column: list[Value]) -> FieldProfile:
    missing = column.count(None)
    present = len(column) - missing
    if declaration.personal or declaration.type == "text" or not present:
        return FieldProfile(present, missing)
    if declaration.type == "number":
        numbers = np.array(column, float)
        if missing:
            numbers = numbers[~np.isnan(numbers)]
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(numbers.mean())
            squares = float(np.square(numbers - mean).sum())
        return FieldProfile(present, missing, Moments(mean, squares, float(numbers.min()), float(numbers.max())))
    counted = Counter(column)
    del counted[None]
    return FieldProfile(present, missing, values=Counter({_named(value): count for value, count in counted.most_common(MAX_VALUES)}))


def _named(value: Value) -> str:
    return str(value)[:MAX_VALUE] if not isinstance(value, bool) else str(value).lower()


def _join(count: int, moments: Moments | None, other_count: int, other: Moments | None) -> Moments | None:
    if moments is None or other is None:
        return moments or other
    both = count + other_count
    apart = other.mean - moments.mean
    return Moments(
        moments.mean + apart * other_count / both,
        moments.squares + other.squares + apart * apart * count * other_count / both,
        min(moments.minimum, other.minimum),
        max(moments.maximum, other.maximum),
    )


def encode_profile(fields: Profile) -> bytes:
    return orjson.dumps({name: _row(one) for name, one in fields.items()})


def decode_profile(value: bytes) -> Profile:
    return {
        name: FieldProfile(present, missing, _moments(moments), Counter(values))
        for name, (present, missing, moments, values) in orjson.loads(value).items()
    }


def _row(one: FieldProfile) -> list[object]:
    moments = one.moments
    return [one.present, one.missing, [moments.mean, moments.squares, moments.minimum, moments.maximum] if moments else None, one.values]


def _moments(row: list[float | None] | None) -> Moments | None:
    """JSON has no infinity and no NaN, which the sums of numbers near the largest float become: null."""
    return Moments(*(math.nan if number is None else number for number in row)) if row else None
