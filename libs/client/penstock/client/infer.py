"""`penstock init --from FILE`: a first pipeline file for data that is at hand. A guess to read and
mend, said so in comments.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from penstock.client.files import moment, rows
from penstock.contracts.errors import Invalid

SAMPLE = 5_000
_MAX_CATEGORIES = 50
_SENSITIVE = re.compile(r"sex|gender|race|ethnic|age\b|religio|disab|nationalit|birth", re.IGNORECASE)
_IDS = re.compile(r"(?:^|_)(?i:id|uuid|key|number|no)$|[a-z](?:Id|ID|Uuid|UUID|Key)$")
_NAMES_A_TIME = re.compile(
    r"(?:^|_)(?:ts|at|on|time|timestamp|date)$|(?:Time|Date|Timestamp)$|^(?:time|date|timestamp)",
    re.IGNORECASE,
)
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def infer(path: Path) -> str:
    """The text of a pipeline file for the data in `path`: the last column as target. Raises
    NotFound, and Invalid for a file without rows, with names that no field can have, or with
    nothing to learn from.
    """
    sample = [row for row in itertools.islice(rows(path), SAMPLE) if not isinstance(row, bytes)]
    if not sample:
        raise Invalid("no row to learn from", where=str(path))
    columns = {
        name: [row.get(name) for row in sample]
        for name in dict.fromkeys(itertools.chain.from_iterable(sample))
    }
    if unfit := [column for column in columns if not _FIELD_NAME.fullmatch(column)]:
        shown = ", ".join(f"`{column}`" for column in unfit[:5])
        raise Invalid(
            f"{shown}: no names for fields",
            where=str(path),
            remedy="Rename them in the file: letters, digits and `_`, no digit first",
        )
    key = next((column for column in columns if _IDS.search(column)), "entity_id")
    timestamp = next((column for column, values in columns.items() if _is_time(column, values)), "time")
    fields = {
        column: _field(column, values) for column, values in columns.items() if column not in (key, timestamp)
    }
    if not fields:
        raise Invalid(
            "there is no column besides its id and its time",
            where=str(path),
            remedy="Give what a model is to learn from",
        )
    lines = [
        f"# A first guess from {len(sample)} rows of {path.name}. Read it through; what it cannot know is"
        " marked.",
        *_source(path, columns, key, timestamp, fields),
        *_target_and_audit(columns, fields),
    ]
    return "\n".join(lines) + "\n"


def _source(
    path: Path, columns: Collection[str], key: str, timestamp: str, fields: Mapping[str, str]
) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-") or "pipeline"
    no_key = "" if key in columns else "; no column looks like an id: add one"
    no_time = "                # no column looks like a time: add one (RFC 3339)"
    yield "version: 1"
    yield f"pipeline: {name if name[0].isalpha() else 'p-' + name}"
    yield "entities:"
    yield f"  entity: {{key: {key}}}            # who or what a row is about{no_key}"
    yield "sources:"
    yield "  events:"
    yield "    entity: entity"
    yield f"    id: {key}                     # names the event: a repeat is dropped"
    yield f"    timestamp: {timestamp}{'' if timestamp in columns else no_time}"
    yield "    fields:"
    yield from (f"      {_quoted(column)}: {text}" for column, text in fields.items())


def _target_and_audit(columns: Mapping[str, list[object]], fields: Mapping[str, str]) -> Iterator[str]:
    target = list(fields)[-1]
    guess = _target(target, fields[target], columns[target])
    yield "targets:"
    yield f"  {_quoted(target)}: {guess}   # the last column; is it the one?"
    yield "audit:"
    yield from _groups(fields)
    yield "  gates: []                         # e.g. {metric: auroc, at_least: 0.7, on_fail: block}"


def _field(column: str, values: list[object]) -> str:
    present = [value for value in values if value not in (None, "")]
    extra = ", personal: true, protected: true" if _SENSITIVE.search(column) else ""
    if present and all(_is_boolean(value) for value in present):
        return f"{{type: boolean{extra}}}"
    if present and all(_is_number(value) for value in present):
        return f"{{type: number{extra}}}"
    distinct = {str(value) for value in present}
    if len(distinct) <= _MAX_CATEGORIES:
        return f"{{type: category{extra}}}"
    return f"{{type: text, personal: true{', protected: true' if 'protected' in extra else ''}}}"


def _target(column: str, field: str, values: list[object]) -> str:
    distinct = sorted({str(value) for value in values if value not in (None, "")})
    if "boolean" in field:
        return f"{{from: events.{column}, type: binary, positive: true}}"
    if "number" in field:
        return f"{{from: events.{column}, type: regression}}"
    if len(distinct) == 2:
        return f"{{from: events.{column}, type: binary, positive: {_quoted(distinct[-1])}}}"
    return f"{{from: events.{column}, type: multiclass}}"


def _groups(fields: Mapping[str, str]) -> Iterable[str]:
    protected = [column for column, text in fields.items() if "protected" in text and "text" not in text]
    if not protected:
        return [
            "  groups: {}                        # protected attributes to compare, as in {sex: {min_rows:"
            " 30}}"
        ]
    groups = ", ".join(
        f"{_quoted(name)}: {{{'bins: [30, 50]' if 'number' in fields[name] else ''}}}" for name in protected
    )
    return [f"  groups: {{{groups}}}"]


def _quoted(text: str) -> str:
    """Quotes a text so that YAML reads it back unchanged."""
    return (
        text
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ ]*", text) and text.lower() not in ("true", "false", "null")
        else json.dumps(text)
    )


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool) or str(value).lower() in ("true", "false")


def _is_time(column: str, values: list[object]) -> bool:
    """Tells whether a column holds the event's time: no date of birth, and seconds since 1970 only
    under a name that says so.
    """
    present = [value for value in values if value not in (None, "")]
    if not present or _SENSITIVE.search(column):
        return False
    return all(_parses(value, seconds=bool(_NAMES_A_TIME.search(column))) for value in present[:100])


def _parses(value: object, *, seconds: bool) -> bool:
    if isinstance(value, datetime):
        return True
    text = str(value)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return seconds and isinstance(moment(text), float)
    return len(text) >= len("2026-01-31")
