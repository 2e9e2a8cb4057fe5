"""`penstock init --from FILE`: a first pipeline file for data that is at hand. A guess to read and
mend, said so in comments.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from penstock.client.declared import moment, number
from penstock.client.files import rows
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

Columns = Mapping[str, list[object]]  # the values that are there, by column


def infer(path: Path) -> str:
    """The text of a pipeline file for the data in `path`: the last column as target. Raises
    NotFound, and Invalid for a file without rows, with names that no field can have, or with
    nothing to learn from.
    """
    sample = [row for row in itertools.islice(rows(path), SAMPLE) if not isinstance(row, bytes)]
    if not sample:
        raise Invalid("no row to learn from", where=str(path))
    columns = {
        name: [value for row in sample if (value := row.get(name)) not in (None, "")]
        for name in dict.fromkeys(itertools.chain.from_iterable(sample))
    }
    if unfit := [column for column in columns if not _FIELD_NAME.fullmatch(column)]:
        shown = ", ".join(f"`{column}`" for column in unfit[:5])
        raise Invalid(
            f"{shown}: no names for fields",
            where=str(path),
            remedy="Rename them in the file: letters, digits and `_`, no digit first",
        )
    heading = f"# A first guess from {len(sample)} rows of {path.name}."
    return f"{heading} Read it through; what it cannot know is marked.\n{_pipeline(path, columns)}"


def _pipeline(path: Path, columns: Columns) -> str:
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
    name = re.sub(r"[^a-z0-9-]+", "-", path.stem.lower()).strip("-") or "pipeline"
    no_key = "" if key in columns else "; no column looks like an id: add one"
    no_time = "                # no column looks like a time: add one (RFC 3339)"
    target = list(fields)[-1]
    declared = "\n".join(f"      {_quoted(column)}: {text}" for column, text in fields.items())
    return f"""\
version: 1
pipeline: {name if name[0].isalpha() else "p-" + name}
entities:
  entity: {{key: {key}}}            # who or what a row is about{no_key}
sources:
  events:
    entity: entity
    id: {key}                     # names the event: a repeat is dropped
    timestamp: {timestamp}{"" if timestamp in columns else no_time}
    fields:
{declared}
targets:
  {_quoted(target)}: {_target(target, fields[target], columns[target])}   # the last column; is it the one?
audit:
  groups: {_groups(fields)}
  gates: []                         # e.g. {{metric: auroc, at_least: 0.7, on_fail: block}}
promotion: {{without_gates: allowed}}   # nothing is judged; leave it out once there are gates
"""


def _field(column: str, values: list[object]) -> str:
    sensitive = bool(_SENSITIVE.search(column))
    extra = ", personal: true, protected: true" if sensitive else ""
    if values and all(_is_boolean(value) for value in values):
        return f"{{type: boolean{extra}}}"
    if values and all(_is_number(value) for value in values):
        return f"{{type: number{extra}}}"
    if len({str(value) for value in values}) <= _MAX_CATEGORIES:
        return f"{{type: category{extra}}}"
    return f"{{type: text, personal: true{', protected: true' if sensitive else ''}}}"


def _target(column: str, field: str, values: list[object]) -> str:
    distinct = sorted({str(value) for value in values})
    if "boolean" in field:
        kind = "binary, positive: true"
    elif "number" in field:
        kind = "regression"
    elif len(distinct) == 2:
        kind = f"binary, positive: {_quoted(distinct[-1])}"
    else:
        kind = "multiclass"
    return f"{{from: events.{column}, type: {kind}}}"


def _groups(fields: Mapping[str, str]) -> str:
    bins = {name: "bins: [30, 50]" if "number" in text else "" for name, text in fields.items()}
    protected = [column for column, text in fields.items() if "protected" in text and "text" not in text]
    groups = ", ".join(f"{_quoted(name)}: {{{bins[name]}}}" for name in protected)
    example = "                        # protected attributes to compare, as in {sex: {min_rows: 30}}"
    return f"{{{groups}}}" if protected else f"{{}}{example}"


def _quoted(text: str) -> str:
    """Quotes a text so that YAML reads it back unchanged."""
    return (
        text
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ ]*", text) and text.lower() not in ("true", "false", "null")
        else json.dumps(text)
    )


def _is_number(value: object) -> bool:
    with suppress(ValueError):
        number(str(value))
        return True
    return False


def _is_boolean(value: object) -> bool:
    return isinstance(value, bool) or str(value).lower() in ("true", "false")


def _is_time(column: str, values: list[object]) -> bool:
    """Tells whether a column holds the event's time: no date of birth, and seconds since 1970 only
    under a name that says so.
    """
    seconds = bool(_NAMES_A_TIME.search(column))
    parses = bool(values) and all(_parses(value, seconds=seconds) for value in values[:100])
    return parses and not _SENSITIVE.search(column)


def _parses(value: object, *, seconds: bool) -> bool:
    text = str(value)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return seconds and isinstance(moment(text), int | float)
    return len(text) >= len("2026-01-31")
