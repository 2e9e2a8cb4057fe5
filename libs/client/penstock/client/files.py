"""Rows from CSV, JSON Lines and Parquet files. A row is what ingest will judge: nothing is repaired here."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.pipeline import SourceField

Row = Mapping[str, object]
FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def rows(path: Path, fields: Mapping[str, SourceField] | None = None) -> Iterator[Row | bytes]:
    """The file's rows. CSV has only text: with `fields`, a number or boolean is read as declared, an empty cell is missing, and what does
    not read stays text for ingest to reject. A JSON line that is broken is given as it stands. Raises NotFound, Invalid.
    """
    if not path.exists():
        raise NotFound("no such file", where=str(path))
    match FORMATS.get(path.suffix.lower()):
        case "csv":
            yield from _csv(path, fields or {})
        case "jsonl":
            yield from _jsonl(path)
        case "parquet":
            yield from _parquet(path)
        case _:
            raise Invalid(f"`{path.suffix}` is no format that can be read", where=str(path), remedy=f"Use {', '.join(sorted(FORMATS))}")


def _csv(path: Path, fields: Mapping[str, SourceField]) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        for row in reader:
            if None in row:
                raise Invalid(
                    "a row has more cells than the header", where=f"{path}:{reader.line_num}", remedy="Quote cells that hold commas"
                )
            yield {name: _typed(cell, fields.get(name)) for name, cell in row.items() if cell is not None}


def _typed(cell: str, field: SourceField | None) -> object:
    if cell == "":
        return None
    if field is None:
        return cell
    if field.type == "number":
        try:
            return float(cell)
        except ValueError:
            return cell
    if field.type == "boolean":
        return _BOOLEANS.get(cell.strip().lower(), cell)
    return cell


def _jsonl(path: Path) -> Iterator[Row | bytes]:
    with path.open("rb") as opened:
        for line in opened:
            if not (text := line.strip()):
                continue
            try:
                row = orjson.loads(text)
            except orjson.JSONDecodeError:
                yield text
                continue
            yield row if isinstance(row, dict) else text


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet  # the `parquet` extra
    except ImportError as error:
        raise Invalid("Parquet needs pyarrow", where=str(path), remedy="pip install 'penstock-client[parquet]'") from error
    with parquet.ParquetFile(path) as opened:
        for batch in opened.iter_batches():
            yield from batch.to_pylist()
