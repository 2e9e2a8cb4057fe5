"""Rows of a file as the events that a source declares: columns under the names of its fields, cells
of its types, and what the file lacks where the source says that publishing writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal

from penstock.contracts.pipeline import Source
from penstock.contracts.pipeline.sources import PUBLISHING_TIME, ROW_CONTENT, ROW_IDS, ROW_NUMBER

Row = Mapping[str, object]
Reader = Callable[[object], object]
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
# Seconds since 1970 are more than this; less is a year or a day written without dashes.
_EPOCH_FROM = 1e8
_DIGEST_DIGITS = 8
# 80 bits: among a million different rows two meet with a chance of n²/2 / 2^80, one in 2.4 * 10^12.
_CONTENT_BYTES = 10


def declared(found: Iterable[Row | bytes], source: Source, *, textual: bool) -> Iterator[Row | bytes]:
    """Rows under the names and in the types of `source`; bytes stay as they are. `textual`: every
    value is a text, as CSV's are, and a number is what reads as one.
    """
    readers = _readers(source, textual)
    numbered, named = _written(source, ROW_NUMBER), _written(source, ROW_CONTENT)
    timed = source.columns.get(source.timestamp) == PUBLISHING_TIME
    now, contents = datetime.now(UTC).isoformat(), _Contents(source)
    for number, row in enumerate(found, 1):
        if isinstance(row, bytes):
            yield row
            continue
        event = {}
        for column, value in row.items():
            name, read = readers.get(column, (column, None))
            event[name] = read(value) if read and value is not None else value
        if named:
            event |= dict.fromkeys(named, contents.id(event))
        if numbered:
            event |= dict.fromkeys(numbered, _numbered(number, row))
        if timed:
            event[source.timestamp] = now
        yield event


def _written(source: Source, *made: str) -> list[str]:
    """Fields that publishing writes so."""
    return [name for name, column in source.columns.items() if column in made]


def columns_of(source: Source, key: str) -> dict[str, str]:
    """Field by the column of a file that holds it: the id, the entity's key, the timestamp and what
    is declared, without what publishing writes.
    """
    names = dict.fromkeys([source.id, key, source.timestamp])
    found = {source.columns.get(name, name): name for name in names}
    found |= {field.column_of(name): name for name, field in source.fields.items()}
    return {column: name for column, name in found.items() if column not in (*ROW_IDS, PUBLISHING_TIME)}


def _readers(source: Source, textual: bool) -> dict[str, tuple[str, Reader | None]]:
    as_declared = _TEXTS if textual else _VALUES
    whole = None if textual else _whole
    readers: dict[str, tuple[str, Reader | None]] = {
        column: (name, whole) for name, column in source.columns.items()
    }
    readers.setdefault(source.id, (source.id, whole))
    if source.timestamp not in source.fields:
        readers[source.columns.get(source.timestamp, source.timestamp)] = (source.timestamp, moment)
    for name, field in source.fields.items():
        readers[field.column_of(name)] = (name, as_declared[field.type])
    return readers


class _Contents:
    """Names the rows of one file by their values: the k-th of equal rows has the same digest, and k.
    Some 120 bytes a different row.
    """

    def __init__(self, source: Source) -> None:
        self._written = _written(source, *ROW_IDS, PUBLISHING_TIME)
        self._missing = ("", *source.missing)
        self._equal: Counter[bytes] = Counter()

    def id(self, event: Row) -> str:
        """A row's id, whatever the order of its columns and whether a gap is empty or absent."""
        said = [
            (name, _plain(value))
            for name, value in sorted(event.items())
            if value is not None and name not in self._written
            if not (isinstance(value, str) and value in self._missing)
        ]
        digest = hashlib.sha256(json.dumps(said).encode()).digest()[:_CONTENT_BYTES]
        self._equal[digest] += 1
        return f"{digest.hex()}-{self._equal[digest]}"


def _plain(value: object) -> str:
    """An event's value as text, alike from CSV, JSON and Parquet."""
    return text_of(float(value) if isinstance(value, Decimal) else value)


def _numbered(number: int, row: Row) -> str:
    digest = hashlib.sha256("\0".join(map(_alike, row.values())).encode("utf-8", "replace"))
    return f"{number}-{digest.hexdigest()[:_DIGEST_DIGITS]}"


def _alike(value: object) -> str:
    """A value as text, alike from CSV, JSON and Parquet: a repeat is one whatever file it comes from."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    text = str(moment(value))
    with suppress(ValueError, OverflowError):
        return repr(float(number(text)))
    return text.lower()


# -- values ----------------------------------------------------------------------------------------


def number(cell: str) -> float:
    """A whole number keeps all its digits. Raises ValueError, also for what only Python takes for a
    number: `1_0`, and other scripts' digits.
    """
    if "_" in cell or not cell.isascii():
        raise ValueError(cell)
    return int(cell) if cell.strip().lstrip("+-").isdigit() else float(cell)


def moment(value: object) -> object:
    """A time as ingest takes it, RFC 3339 or seconds since 1970; what is neither stays as it is. A
    time without an offset gets none: ingest knows the source's `timezone`.
    """
    match value:
        case "":
            return None
        case str():
            return _read_moment(value)
        case date():
            return value.isoformat()
        case _:
            return value


def _read_moment(text: str) -> object:
    with suppress(ValueError):
        if not text.isdigit() or len(text) == len("20260131"):
            return datetime.fromisoformat(text.strip()).isoformat()
    with suppress(ValueError):
        if (seconds := number(text)) >= _EPOCH_FROM:
            return seconds
    return text


def _number_of_text(cell: object) -> object:
    with suppress(ValueError):
        return number(str(cell))
    return cell


def _boolean_of_text(cell: object) -> object:
    return _BOOLEANS.get(str(cell).strip().lower(), cell)


def text_of(value: object) -> str:
    """A value as a category's text has it: true, a whole number without a point, a day as 2026-01-31."""
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case date():
            return value.isoformat()
        case _:
            return str(value)


def _text_of_code(value: object) -> object:
    """A code that a program wrote as a number, and a day, as a text."""
    code = isinstance(value, int | float | date) and not isinstance(value, bool)
    return text_of(value) if code else value


def _whole(value: object) -> object:
    """An id of a column with gaps, which programs hold as 7.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _boolean_of_value(value: object) -> object:
    return bool(value) if value in (0, 1) and isinstance(value, int | float) else value


_TEXTS: Mapping[str, Reader | None] = {
    "number": _number_of_text,
    "boolean": _boolean_of_text,
    "category": None,
    "text": None,
}
_VALUES: Mapping[str, Reader | None] = {
    "number": None,
    "boolean": _boolean_of_value,
    "category": _text_of_code,
    "text": _text_of_code,
}
