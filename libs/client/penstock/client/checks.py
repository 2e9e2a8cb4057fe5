"""Misfits between a file and the source that it is to be published to, found before anything is sent."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NewType
from zoneinfo import ZoneInfo

from penstock.client.declared import Row, columns_of
from penstock.client.files import JSON_LINES
from penstock.contracts.dataplane import zoneless
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline, Source, SourceField
from penstock.contracts.rules import nearest
from penstock.contracts.validation import utc

Misfit = NewType("Misfit", str)

LOOKED_AT = 200
"""First rows of a file that are compared with the source."""
_TYPES = {"number": (int, float), "category": (str,), "text": (str,), "boolean": (bool,)}


def check(path: Path, found: Sequence[Row | bytes], source: Source, key: str) -> None:
    """Compares the first rows, as `files.rows` reads them for `source`, with its fields: what no event
    of the file could get right is refused. Raises Invalid with every misfit.
    """
    rows = [row for row in found if not isinstance(row, bytes)]
    if misfits := list(compared(rows, source, key)):
        lines = "\n".join(f"  {misfit}" for misfit in misfits)
        raise Invalid(f"does not fit the source, nothing published:\n{lines}", where=str(path))


def compared(rows: Sequence[Row], source: Source, key: str) -> Iterator[Misfit]:
    """Finds what no event of such rows could get right."""
    if not rows:
        return
    here = set().union(*(row.keys() for row in rows))
    everywhere = set(rows[0]).intersection(*(row.keys() for row in rows))
    columns = columns_of(source, key)
    named = {name: column for column, name in columns.items()}
    known = {source.id, key, source.timestamp, *source.fields}
    for name in sorted(everywhere - known):
        near = nearest(name, dict.fromkeys(filter(None, [*columns, *known])))
        if "did you mean" not in near:
            near += (
                ". Declare it, since what `features` does not name is no input, or take it out of the file"
            )
        yield Misfit(f"{_called(name)}: the source declares no such field{near}")
    needed = {key: "names its entity", source.id: "names the event", source.timestamp: "is its time"}
    needed |= {name: "is required" for name, field in source.fields.items() if field.required}
    for name, why in needed.items():
        if name not in here:
            yield Misfit(
                f"{_called(named.get(name, name))} is missing, which {why}{nearest(name, here - known)}"
            )
    times = [row[source.timestamp] for row in rows if row.get(source.timestamp) is not None]
    if times and not source.timezone and all(map(zoneless, times)):
        yield Misfit(
            f"`{source.timestamp}` names no time zone, as in `{times[0]}`: declare the source's `timezone`,"
            " as in UTC"
        )
    elif times and not any(map(_is_time, times)):
        shown = "" if source.timestamp in source.fields else f", as `{str(times[0])[:40]}`"
        yield Misfit(
            f"`{source.timestamp}` holds no time that can be read{shown}: write 2026-01-31T12:00:00Z, a day"
            " as 2026-01-31 where `timezone` is declared, or seconds since 1970"
        )
    yield from _wrong_types(rows, source)


def _called(column: str) -> str:
    return f"column `{column}`" if column else "the column without a name"


def lacking(path: Path, rows: Sequence[Row], pipeline: Pipeline, source: str) -> dict[str, str]:
    """Columns that a table lacks though the model or the audit reads them, each with a sentence on it. A
    JSON line may leave out what is missing: of a file of them the first `rows` tell nothing.
    """
    if not rows or path.suffix.lower() in JSON_LINES:
        return {}
    declared, here = pipeline.sources[source], set().union(*(row.keys() for row in rows))
    named = {name: column for column, name in columns_of(declared, pipeline.key).items()}
    read = {pipeline.reference(group): "a group of the audit" for group in pipeline.audit.groups}
    read |= {one.source_field: "a feature" for one in pipeline.resolved_features().values()}
    if weight := pipeline.training.sample_weight:
        read[weight] = "the rows' weight"
    absent = {
        named.get(name, name): why
        for name in declared.fields
        if (why := read.get(f"{source}.{name}")) and name not in here
    }
    return {
        column: f"{_called(column)} is not in the file: it is {why}, and each row would lack it"
        for column, why in absent.items()
    }


def complete(
    path: Path, rows: Sequence[Row], pipeline: Pipeline, source: str, without: Sequence[str]
) -> None:
    """Raises Invalid where a table lacks a column that is read, and is not to be published `without` it."""
    found = lacking(path, rows, pipeline, source)
    said = [why for column, why in found.items() if column not in without]
    if said:
        flags = " ".join(f"--without {shlex.quote(column)}" for column in found)
        raise Invalid(
            "\n  ".join(["nothing published:", *said]),
            where=str(path),
            remedy=f"Add it: rows published again under their ids change nothing. Or publish so: {flags}",
        )


def _wrong_types(rows: Sequence[Row], source: Source) -> Iterator[Misfit]:
    for name, field in source.fields.items():
        values = [value for row in rows if (value := stated(row, name, source)) is not None]
        right = any(is_of(field, value) for value in values)
        if values and not right and field.on_violation == "reject":
            shown = "" if field.personal else f", as `{str(values[0])[:40]}`"
            yield Misfit(f"`{name}` is declared {field.type}; no value of the column is one{shown}")


def _is_time(value: object) -> bool:
    with suppress(ValueError, OverflowError, OSError):
        return bool(utc(value, ZoneInfo("UTC")))
    return False


def stated(row: Row, name: str, source: Source) -> object:
    """The row's value of a field; None where it is missing."""
    value = row.get(name)
    return None if isinstance(value, str) and value in ("", *source.missing) else value


def is_of(field: SourceField, value: object) -> bool:
    """Tells whether a value is of the field's type."""
    return isinstance(value, _TYPES[field.type]) and isinstance(value, bool) == (field.type == "boolean")
