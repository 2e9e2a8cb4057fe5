"""Rows from CSV, JSON Lines and Parquet files. A row is what ingest will judge: nothing is repaired here."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from pathlib import Path

from penstock.contracts.dataplane import read_json
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.pipeline import Source, SourceField

Row = Mapping[str, object]
FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
# Seconds since 1970 are more than this; less is a year or a day written without dashes.
_EPOCH_FROM = 1e8


def rows(path: Path, source: Source | None = None) -> Iterator[Row | bytes]:
    """The file's rows. CSV has only text: with `source`, a number or boolean is read as declared,
    an empty cell is missing, and what does not read stays text for ingest to reject. A time of CSV
    or Parquet that names no time zone is UTC. A JSON line that is broken is given as it stands.
    Raises NotFound, Invalid.
    """
    if not path.exists():
        raise NotFound("no such file", where=str(path))
    try:
        match FORMATS.get(path.suffix.lower()):
            case "csv":
                yield from _csv(path, source)
            case "jsonl":
                yield from _jsonl(path)
            case "parquet":
                yield from _parquet(path, source)
            case _:
                raise Invalid(
                    f"`{path.suffix}` is no format that can be read",
                    where=str(path),
                    remedy=f"Use {', '.join(sorted(FORMATS))}",
                )
    except OSError as error:
        raise Invalid(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def _csv(path: Path, source: Source | None) -> Iterator[Row]:
    fields: Mapping[str, SourceField] = source.fields if source else {}
    with path.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.reader(opened, strict=True)
        try:
            header = next(reader, [])
            _refuse_repeats(header, path)
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise Invalid(
                        f"a row has {'more' if len(row) > len(header) else 'fewer'} cells than the header",
                        where=f"{path}:{reader.line_num}",
                        remedy="Quote cells that hold commas, and leave empty what is missing",
                    )
                yield {
                    name: moment(cell)
                    if source and name == source.timestamp and name not in fields
                    else _typed(cell, fields.get(name))
                    for name, cell in zip(header, row, strict=True)
                }
        except UnicodeDecodeError as error:
            remedy = f"Save it as UTF-8, as by: iconv -f latin1 -t utf-8 {path.name}"
            raise Invalid("holds bytes that are not UTF-8", where=str(path), remedy=remedy) from error
        except csv.Error as error:
            raise Invalid(f"no CSV: {error}", where=f"{path}:{reader.line_num}") from error


def _refuse_repeats(columns: Sequence[str], path: Path) -> None:
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise Invalid(f"column `{twice[0]}` is named twice", where=str(path), remedy="Rename or drop one")


def _typed(cell: str, field: SourceField | None) -> object:
    if cell == "":
        return None
    match field and field.type:
        case "number":
            with suppress(ValueError):
                return number(cell)
        case "boolean":
            return _BOOLEANS.get(cell.strip().lower(), cell)
    return cell


def number(cell: str) -> float:
    """A whole number keeps all its digits. Raises ValueError, also for what only Python takes for a
    number: `1_0`, and other scripts' digits.
    """
    if "_" in cell or not cell.isascii():
        raise ValueError(cell)
    return int(cell) if cell.strip().lstrip("+-").isdigit() else float(cell)


def moment(value: object) -> object:
    """A time as ingest takes it, RFC 3339 or seconds since 1970; what is neither stays as it is."""
    match value:
        case "":
            return None
        case str():
            return _read_moment(value)
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        case date():
            return datetime.combine(value, time.min, UTC).isoformat()
        case _:
            return value


def _read_moment(text: str) -> object:
    with suppress(ValueError):
        if not text.isdigit() or len(text) == len("20260131"):
            return moment(datetime.fromisoformat(text.strip()))
    with suppress(ValueError):
        if (seconds := number(text)) >= _EPOCH_FROM:
            return seconds
    return text


def _jsonl(path: Path) -> Iterator[Row | bytes]:
    with path.open("rb") as opened:
        for line in filter(None, map(bytes.strip, opened)):
            try:
                row = read_json(line)
            except json.JSONDecodeError:
                row = None
            yield row if isinstance(row, dict) else line


def _parquet(path: Path, source: Source | None) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # the `parquet` extra
    except ImportError as error:
        raise Invalid(
            "Parquet needs pyarrow", where=str(path), remedy="pip install 'penstock-client[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as opened:
            _refuse_repeats(opened.schema_arrow.names, path)
            for batch in opened.iter_batches():
                for row in batch.to_pylist():
                    if source and source.timestamp in row:
                        row[source.timestamp] = moment(row[source.timestamp])
                    yield row
    except (ArrowException, UnicodeDecodeError) as error:
        raise Invalid(f"no Parquet that can be read: {error}", where=str(path)) from error
