"""Encoding, separator and decimal mark of a CSV file, found in its first bytes and judged strictly."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from penstock.contracts.errors import Invalid

_READ = 256 * 1024  # bytes of the file, from its beginning
_LINES, _LONGEST = 200, 10_000  # that are looked at, and characters of each
_SEPARATORS = (",", ";", "\t", "|")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # the longer mark first: UTF-16's begins that of UTF-32
_CANDIDATES = ("cp1252", "cp1250", "shift_jis", "gb18030")
_DECIMAL = re.compile(r"[+-]?\d+([.,])\d+")


@dataclass(frozen=True)
class Dialect:
    encoding: str
    separator: str = ","
    decimal: str = "."
    spaced: bool = False
    """A space after each separator belongs to no cell."""


def dialect_of(path: Path, encoding: str | None = None) -> Dialect:
    """Dialect of a CSV file. UTF-8, or what its byte order mark names, where no `encoding` is given.
    Raises Invalid for an encoding that there is not, and OSError.
    """
    with path.open("rb") as opened:
        head = opened.read(_READ)
    name = encoding or next((found for mark, found in _MARKS if head.startswith(mark)), "utf-8")
    try:
        decoder = codecs.getincrementaldecoder(name)()
    except LookupError as error:
        raise Invalid(f"there is no encoding `{name}`", remedy="Write one as in cp1252 or utf-16") from error
    try:
        text = decoder.decode(head, final=len(head) < _READ)
    except UnicodeDecodeError:
        return Dialect(name)  # who reads the rows says where
    whole = text.splitlines()[: -1 if len(head) == _READ else None]
    lines = [line[:_LONGEST] for line in whole[:_LINES]]
    separator = _separator(lines)
    after = [cell for line in lines for cell in line.split(separator)[1:] if cell]
    cells = (cell for row in csv.reader(lines, delimiter=separator) for cell in row)
    marks = Counter(found[1] for cell in cells if (found := _DECIMAL.fullmatch(cell.strip())))
    return Dialect(
        name,
        separator,
        decimal="," if separator != "," and set(marks) == {","} else ".",
        spaced=bool(after) and all(cell[0] == " " for cell in after),
    )


def _separator(lines: list[str]) -> str:
    """The one that divides the most lines into as many cells as the first, then into the most."""

    def fit(separator: str) -> tuple[bool, int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        width = widths[0] if widths else 0
        return width > 1, widths.count(width) if width > 1 else 0, width

    return max(_SEPARATORS, key=fit) if lines else ","


def undecodable(path: Path, dialect: Dialect, error: UnicodeDecodeError) -> Invalid:
    """An error that shows the first odd word as other encodings read it."""
    start = error.object[: error.start].rfind(b"\n") + 1
    line = error.object[start : error.start + 20].split(b"\n")[0][-40:]
    readings = []
    for name in _CANDIDATES:
        try:
            readings.append(f"--encoding {name} (reads it as `{line.decode(name).strip()}`)")
        except UnicodeDecodeError:
            continue
    remedy = f"Say what it is: {', '.join(readings[:3]) or '--encoding NAME'}"
    wanted = "UTF-8" if dialect.encoding.startswith("utf-8") else dialect.encoding
    return Invalid(f"holds bytes that are not {wanted}", where=str(path), remedy=remedy)
