"""Sample of a file by columns, with the marks that stand for a missing value taken out."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from penstock.client.declared import Row, number, text_of
from penstock.client.files import Progress, is_csv, rows
from penstock.client.guess.names import names_a_row
from penstock.contracts.errors import Invalid

SAMPLE = 20_000
_ALWAYS_MARKS = ("?", "NA", "N/A", "n/a", "NaN", "nan", "#N/A", "NULL", "null", "<NA>")
_MARKS_OF_NUMBERS = ("-", "--", ".", "none", "None", "missing", "unknown", "k.A.", "s/d", "n.d.")
_FEW_ODD, _SHARE_ODD, _FEWEST_NUMBERS = 2, 0.01, 20
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_LETTERS = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "Ae"})


@dataclass(frozen=True)
class Column:
    """Column of the sample under its `field`'s name; None where a value is missing."""

    name: str
    field: str
    values: Sequence[object]
    odd: tuple[str, ...] = ()
    """Cells, missing in `values`, that are no number where nearly all others are."""

    @cached_property
    def present(self) -> list[object]:
        return [value for value in self.values if value is not None]

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of times that each value, as text, stands in the sample."""
        return Counter(map(text_of, self.present))

    @property
    def missing(self) -> float:
        return 1 - len(self.present) / max(1, len(self.values))

    @property
    def unique(self) -> bool:
        return bool(self.present) and len(self.counts) == len(self.values)

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values that are there as numbers; None where one is none."""
        if not self.present or any(isinstance(value, bool) for value in self.present):
            return None
        with suppress(ValueError):
            return [number(text_of(value)) for value in self.present]
        return None

    @property
    def whole(self) -> bool:
        return bool(self.numbers) and all(float(value).is_integer() for value in self.numbers or ())

    @cached_property
    def counts_up(self) -> bool:
        """Tells whether the values are whole numbers that rise in at most three different steps."""
        if not self.whole:
            return False
        steps = {later - earlier for earlier, later in itertools.pairwise(self.numbers or [])}
        return len(steps) <= 3 and min(steps, default=0) > 0

    @cached_property
    def numbers_rows(self) -> bool:
        """Tells whether the values are whole numbers without a gap, in any order, from 0 or 1 on."""
        if not self.whole or not self.unique:
            return False
        low, high = min(self.numbers or [0]), max(self.numbers or [0])
        return 0 <= low <= 1 and high - low == len(self.counts) - 1

    def determines(self, other: Column) -> bool:
        """Tells whether rows with one value here have one there."""
        found: dict[str, str] = {}
        for one, its in zip(self.values, other.values, strict=True):
            if found.setdefault(text_of(one), text_of(its)) != text_of(its):
                return False
        return True

    @property
    def zero_padded(self) -> bool:
        """Tells whether the values are codes: digits with a leading zero, as postcodes."""
        return any(re.fullmatch(r"0\d+", text) for text in self.counts)


@dataclass(frozen=True)
class Table:
    path: Path
    columns: tuple[Column, ...]
    rows: int
    """Rows of the file."""
    sampled: int
    marks: tuple[str, ...]
    encoding: str | None = None

    @property
    def whole(self) -> bool:
        """Tells whether the sample is the file."""
        return self.rows == self.sampled

    @property
    def textual(self) -> bool:
        return is_csv(self.path)


def read_table(path: Path, encoding: str | None = None, progress: Progress | None = None) -> Table:
    """Reads at most SAMPLE rows, evenly from the whole file. Raises NotFound, and Invalid for a file
    that cannot be read or has no row.
    """
    sample, count = _evenly(rows(path, encoding=encoding, progress=progress))
    if not sample:
        raise Invalid("no row to learn from", where=str(path), remedy="A CSV has its header first, then rows")
    names = list(dict.fromkeys(name for row in sample for name in row))
    raw = {name: [None if (value := row.get(name)) == "" else value for row in sample] for name in names}
    marks = _marks(raw)
    columns = tuple(
        _column(name, field, [None if isinstance(v, str) and v in marks else v for v in raw[name]])
        for name, field in zip(names, _field_names(names), strict=True)
    )
    return Table(path, columns, count, len(sample), marks, encoding)


def _column(name: str, field: str, values: list[object]) -> Column:
    """Column of numbers though a few cells are none: digits and marks without letters, as `1,057.5`. Such a
    cell of an id, `1035-2`, is one itself.
    """
    texts = [value for value in values if isinstance(value, str)]
    odd = [text for text in texts if not _is_number(text)]
    numbers = {text for text in texts if _is_number(text)}
    codes = any(re.fullmatch(r"0\d+", text) for text in numbers)
    few = 0 < len(odd) <= max(_FEW_ODD, len(texts) * _SHARE_ODD) and len(numbers) >= _FEWEST_NUMBERS
    present = [text_of(value) for value in values if value is not None]
    ids = names_a_row(name) or (len({*present}) == len(present) and all(map(_is_whole, numbers)))
    digits = all(re.fullmatch(r"[^A-Za-z]*\d[^A-Za-z]*", text) for text in odd)
    if not few or codes or ids or not digits:
        return Column(name, field, values)
    gone = set(odd)
    return Column(name, field, [None if value in gone else value for value in values], tuple(odd))


def _evenly(found: Iterator[Row | bytes]) -> tuple[list[Row], int]:
    """Rows at equal distances, between half of SAMPLE and all of it, and the count of all."""
    kept: list[Row] = []
    step, count = 1, 0
    for row in found:
        if isinstance(row, bytes):
            continue
        if count % step == 0:
            if len(kept) == SAMPLE:
                kept, step = kept[::2], step * 2
            if count % step == 0:
                kept.append(row)
        count += 1
    return kept, count


def _marks(raw: dict[str, list[object]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for values in raw.values():
        texts = {value for value in values if isinstance(value, str)}
        others = texts - {*_ALWAYS_MARKS, *_MARKS_OF_NUMBERS}
        codes = len(others) > 10 and all(len(text) == 2 and text.isupper() for text in others)
        numbers = bool(others) and all(_is_number(text) for text in others)
        found |= dict.fromkeys(mark for mark in _ALWAYS_MARKS if mark in texts and not codes)
        if numbers or (not others and any(isinstance(value, int | float) for value in values)):
            found |= dict.fromkeys(mark for mark in _MARKS_OF_NUMBERS if mark in texts)
    return tuple(found)


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        number(text)
        return True
    return False


def _is_whole(text: str) -> bool:
    return float(number(text)).is_integer()


def _field_names(columns: Sequence[str]) -> list[str]:
    """A field's name for each column: its own where it is one, else the nearest that is."""
    taken = {name for name in columns if _FIELD_NAME.fullmatch(name)}
    named = []
    for place, column in enumerate(columns, 1):
        name = column
        if not _FIELD_NAME.fullmatch(column):
            plain = unicodedata.normalize("NFKD", column.translate(_LETTERS))
            plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
            stem = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:56] or f"column_{place}"
            stem = stem if not stem[0].isdigit() else f"n{stem}"
            tries = (stem if n == 1 else f"{stem}_{n}" for n in range(1, len(columns) + 2))
            name = next(one for one in tries if one not in taken)
            taken.add(name)
        named.append(name)
    return named
