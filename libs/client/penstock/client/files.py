"""Rows from CSV, JSON Lines and Parquet files. A row is what ingest will judge: nothing is repaired here."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from penstock.client.declared import Row, declared
from penstock.client.dialect import dialect_of, undecodable
from penstock.contracts.dataplane import read_json
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.pipeline import Source

Progress = Callable[[int], None]
"""Told the bytes of the file that were read so far."""
CSV = frozenset({".csv", ".tsv", ".txt", ".data"})
JSON_LINES = frozenset({".jsonl", ".ndjson"})
PARQUET = frozenset({".parquet"})
_TOLD_EVERY = 1000  # rows


def rows(
    path: Path,
    source: Source | None = None,
    *,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> Iterator[Row | bytes]:
    """The file's rows. With `source`, columns stand under the names of its fields, and a cell is read
    as its field is declared; what does not read stays as it is for ingest to reject. An empty cell is
    missing. A JSON line that is broken is given as it stands. Raises NotFound, Invalid.
    """
    if not path.exists():
        raise NotFound("no such file", where=str(path))
    if path.is_dir():
        raise Invalid("is a folder", where=str(path), remedy="Name a file in it")
    try:
        found = _rows(path, encoding, progress)
        yield from declared(found, source, textual=is_csv(path)) if source else found
    except OSError as error:
        raise Invalid(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def is_csv(path: Path) -> bool:
    """Tells whether all values of a file are texts."""
    return path.suffix.lower() in CSV


def _rows(path: Path, encoding: str | None, progress: Progress | None) -> Iterator[Row | bytes]:
    suffix, told = path.suffix.lower(), progress or (lambda _: None)
    if suffix in CSV:
        return _csv(path, encoding, told)
    if suffix in JSON_LINES:
        return _jsonl(path, told)
    if suffix in PARQUET:
        return _parquet(path, told)
    raise Invalid(
        f"`{path.suffix}` is no format that can be read",
        where=str(path),
        remedy=f"Use {', '.join(sorted(CSV | JSON_LINES | PARQUET))}",
    )


def _csv(path: Path, encoding: str | None, progress: Progress) -> Iterator[Row]:
    dialect = dialect_of(path, encoding)
    with path.open("rb") as raw, io.TextIOWrapper(raw, dialect.encoding, newline="") as opened:
        reader = csv.reader(opened, strict=True, delimiter=dialect.separator, skipinitialspace=dialect.spaced)
        try:
            header = next(reader, [])
            _refuse_repeats(header, path)
            for number, row in enumerate(filter(None, reader)):
                if len(row) != len(header):
                    raise Invalid(
                        f"a row has {'more' if len(row) > len(header) else 'fewer'} cells than the header",
                        where=f"{path}:{reader.line_num}",
                        remedy=f"Quote cells that hold `{dialect.separator}`, leave empty what is missing",
                    )
                if number % _TOLD_EVERY == 0:
                    progress(raw.tell())
                yield {
                    name: (_point(cell) if dialect.decimal == "," else cell) or None
                    for name, cell in zip(header, row, strict=True)
                }
        except UnicodeDecodeError as error:
            raise undecodable(path, dialect, error) from error
        except csv.Error as error:
            raise Invalid(
                f"no CSV: {error}",
                where=f"{path}:{reader.line_num}",
                remedy="Close each quote, and write one in a quoted cell twice;"
                " a cell has 131,072 characters at most",
            ) from error


def _point(cell: str) -> str:
    """A number with a decimal comma as ingest takes it; any other cell as it is."""
    whole, comma, fraction = cell.strip().partition(",")
    return f"{whole}.{fraction}" if comma and whole.lstrip("+-").isdigit() and fraction.isdigit() else cell


def _refuse_repeats(columns: Sequence[str], path: Path) -> None:
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise Invalid(f"column `{twice[0]}` is named twice", where=str(path), remedy="Rename or drop one")


def _jsonl(path: Path, progress: Progress) -> Iterator[Row | bytes]:
    with path.open("rb") as opened:
        for number, line in enumerate(filter(None, map(bytes.strip, opened))):
            row = None
            with suppress(json.JSONDecodeError):
                row = read_json(line)
            if number % _TOLD_EVERY == 0:
                progress(opened.tell())
            yield row if isinstance(row, dict) else line


def _parquet(path: Path, progress: Progress) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # the `parquet` extra
    except ImportError as error:
        raise Invalid(
            "Parquet needs pyarrow", where=str(path), remedy="pip install 'penstock-client[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as opened:
            _refuse_repeats(opened.schema_arrow.names, path)
            read, total, size = 0, max(1, opened.metadata.num_rows), path.stat().st_size
            for batch in opened.iter_batches():
                yield from batch.to_pylist()
                read += batch.num_rows
                progress(size * read // total)
    except (ArrowException, UnicodeDecodeError) as error:
        raise Invalid(f"no Parquet that can be read: {error}", where=str(path)) from error
