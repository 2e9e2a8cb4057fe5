"""Profile of accepted values: per field, how often present, mean and spread of numbers, the
most frequent categories.

Profiles add up: a batch's to the partition's, the partitions' to the source's. Means and sums of
squares are joined by the pairwise algorithm of Chan, Golub and LeVeque (1979). A personal field is
profiled only as present or missing: the smallest income is somebody's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import TypeAdapter

from penstock.contracts.dataplane import Value
from penstock.contracts.events import Count
from penstock.contracts.pipeline import SourceField

# Most frequent values kept of a field. One that becomes frequent late is undercounted by what was
# dropped before.
MAX_VALUES = 50
MAX_VALUE = 64  # characters kept of a value


class Moments(NamedTuple):
    """Moments of a number field's present values; `squares` is the sum of squared distances from
    the mean.
    """

    mean: float
    squares: float
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
        """Standard deviation of the sample; None below two values."""
        return (
            math.sqrt(self.moments.squares / (self.present - 1))
            if self.moments and self.present > 1
            else None
        )

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
    return {
        name: left.get(name, FieldProfile()) + right.get(name, FieldProfile()) for name in {**left, **right}
    }


class Profiler:
    """Profiles one batch, column by column, in as many parts as it comes."""

    def __init__(self, declared: Mapping[str, SourceField]) -> None:
        shown = {
            name: field for name, field in declared.items() if not (field.personal or field.type == "text")
        }
        self._columns: dict[str, list[NDArray[np.float64]]] = {
            name: [] for name, field in shown.items() if field.type == "number"
        }
        self._values: dict[str, Counter[Value]] = {
            name: Counter() for name, field in shown.items() if field.type != "number"
        }
        self._missing = {name: 0 for name in declared if name not in shown}
        self._rows = 0

    def add(self, fields: Mapping[str, Sequence[Value]]) -> Self:
        """Adds records: every declared field with its column, all of one length."""
        self._rows += len(next(iter(fields.values())))
        for name, parts in self._columns.items():
            parts.append(np.array(fields[name], float))
        for name, counts in self._values.items():
            counts.update(fields[name])
        for name in self._missing:
            self._missing[name] += fields[name].count(None)
        return self

    def profile(self) -> Profile:
        """Empty without any record."""
        if not self._rows:
            return {}
        numbers = {name: _number(np.concatenate(parts)) for name, parts in self._columns.items()}
        counted = {name: _counted(self._rows, counts) for name, counts in self._values.items()}
        blind = {name: FieldProfile(self._rows - missing, missing) for name, missing in self._missing.items()}
        return numbers | counted | blind


def _number(column: NDArray[np.float64]) -> FieldProfile:
    numbers = column[~np.isnan(column)]
    missing = len(column) - len(numbers)
    if not len(numbers):
        return FieldProfile(0, missing)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(numbers.mean())
        squares = float(np.square(numbers - mean).sum())
    return FieldProfile(
        len(numbers), missing, Moments(mean, squares, float(numbers.min()), float(numbers.max()))
    )


def _counted(rows: int, counts: Counter[Value]) -> FieldProfile:
    missing = counts.pop(None, 0)
    return FieldProfile(
        rows - missing,
        missing,
        values=Counter({_named(value): count for value, count in counts.most_common(MAX_VALUES)}),
    )


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


_Moment = float | None
_ENCODED = TypeAdapter(
    dict[str, tuple[Count, Count, tuple[_Moment, _Moment, _Moment, _Moment] | None, dict[str, Count]]]
)


def encode_profile(fields: Profile) -> bytes:
    rows = {
        name: [one.present, one.missing, list(one.moments) if one.moments else None, one.values]
        for name, one in fields.items()
    }
    return orjson.dumps(rows)


def decode_profile(value: bytes) -> Profile:
    """Raises ValueError for what is no profile."""
    return {
        name: FieldProfile(present, missing, _moments(moments), Counter(values))
        for name, (present, missing, moments, values) in _ENCODED.validate_json(value).items()
    }


def _moments(row: Sequence[float | None] | None) -> Moments | None:
    # JSON has no infinity and no NaN, which the sums of numbers near the largest float become: null.
    return Moments(*(math.nan if number is None else number for number in row)) if row else None
