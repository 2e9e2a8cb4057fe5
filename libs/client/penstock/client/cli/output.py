"""Output of a command for a person and for a program, and its exit code."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
import sys
import webbrowser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import rich.console
import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ValidationError
from rich.console import ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from penstock.client.settings import ClientSettings
from penstock.contracts.errors import TREATMENTS, Invalid, PenstockError

# A program or a file reads on where there is no terminal to ask for its columns.
WIDE = None if sys.stdout.isatty() else 200

# Characters that a terminal obeys, or that turn the order of what is read: text from outside has them
# shown. Line breaks and tabs are laid out by rich.
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with each character that a terminal would obey as its escape: `\\x1b`."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Console(rich.console.Console):
    """Prints nothing from outside that a terminal obeys."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


console = Console(highlight=False, soft_wrap=True, markup=False, width=WIDE)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

# An empty cell; and a character that the terminal's encoding has not is shown as its escape.
EMPTY = "–" if (sys.stdout.encoding or "").lower().startswith("utf") else "-"
for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130
MAX_REJECTS = 0.05
"""Share of a file's rows that may be rejected, unless somebody says otherwise."""
MOST_KINDS = 10
"""Kinds of rejects that are told one by one."""


class Reporting(TyperGroup):
    """Group whose commands end with an error's sentence and exit code instead of a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Ends with a sentence also where the output itself, an answer or a help, cannot be written."""
        try:
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()  # else Python does it when nobody can say any more what went wrong
        except OSError as error:
            if not (why := _against_output()):
                raise
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # nothing fails once more at the end
            if error.errno != errno.EPIPE:  # who reads had enough, as `head` does
                errors.print(f"standard output cannot be written: {why}", style="red")
            sys.exit(EXIT_FAILED)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            fail(str(error), TREATMENTS[error.kind].exit_code)
        except ValidationError as error:
            if error.title != ClientSettings.__name__:
                raise
            said = (
                f"setting {'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            )
            fail("; ".join(said), EXIT_USAGE)
        except OSError as error:
            if error.filename is None:
                raise
            fail(f"{error.filename}: {error.strerror}")
        except KeyboardInterrupt:
            fail("stopped by hand", EXIT_INTERRUPTED)


def _against_output() -> str:
    """Reason why standard output takes no more, of a full disk for example; "" where it does. An error that
    names no file may be of anything that was written.
    """
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def agreed(question: str, *, yes: bool) -> None:
    """Goes on only where somebody says yes to what cannot be undone: with `--yes`, or at the terminal.
    Ends the command otherwise, also where nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} There is nobody to ask here: say --yes", EXIT_USAGE)
    typer.confirm(question, abort=True, err=True)  # what a program reads stays one document


def counted(number: int, word: str) -> str:
    """`1 row`, `2 rows`, `2,380 rows`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    errors.print(message, style="red")
    raise typer.Exit(code)


@contextmanager
def interrupted(said: str) -> Iterator[None]:
    """Ends the command upon Ctrl-C with what goes on all the same, and how to look at it. One that comes
    while Kafka's client tells of a delivery becomes the cause of a SystemError there (confluent-kafka 2.16).
    """
    try:
        yield
    except KeyboardInterrupt:
        fail(said, EXIT_INTERRUPTED)
    except SystemError as error:
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        fail(said, EXIT_INTERRUPTED)


def show(value: Any, *said: RenderableType, as_json: bool) -> None:
    """Prints a result: for a program `value` as one JSON document, for a person what is `said` of it."""
    if as_json:
        document = json.dumps(value, indent=2, ensure_ascii=False, default=_jsonable)
        sys.stdout.write(_OBEYED.sub(lambda found: rf"\u{ord(found[0]):04x}", document) + "\n")
        return
    for one in said:
        console.print(one)


def writable(path: Path) -> Path:
    """The path, before anything is worked out for it. Raises Invalid where no file can be written."""
    if not path.parent.is_dir():
        raise Invalid("there is no such folder", where=str(path.parent), remedy="Make it, or name another")
    if path.is_dir():
        raise Invalid("is a folder", where=str(path), remedy="Name a file in it")
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises Invalid with the file's name where it cannot be written: of a full disk the error has none."""
    try:
        yield
    except OSError as error:
        raise Invalid(f"cannot be written: {error.strerror}", where=str(path)) from error


def write_privately(path: Path, page: bytes) -> None:
    """Writes a page with figures of people, which only its owner may read. A device, a pipe or the file
    of another user keeps the rights it has. Raises Invalid where it cannot be written.
    """
    with writing(path), open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as opened:
        found = os.fstat(opened.fileno())
        if stat.S_ISREG(found.st_mode):
            if found.st_uid == os.geteuid():
                os.fchmod(opened.fileno(), 0o600)  # one that was there before, too
            opened.truncate(0)
        opened.write(page)


def write_page(path: Path, page: bytes, *, open_: bool) -> None:
    """Writes a page for people, which only its owner may read, and tells where it lies."""
    write_privately(path, page)
    console.print(f"wrote {path} ({len(page) // 1024} KiB)")
    if open_ and not webbrowser.open(path.resolve().as_uri()):
        console.print("no browser was found here: open it in yours")


def _jsonable(value: Any) -> Any:
    match value:
        case Message():
            return _with_numbers(value)
        case BaseModel():
            return value.model_dump(mode="json", by_alias=True)
        case _ if is_dataclass(value):
            return vars(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _with_numbers(message: Message) -> dict[str, Any]:
    """Protobuf's JSON writes int64 as text; here every count fits a double, and programs want numbers."""
    data = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for field in message.DESCRIPTOR.fields:
        if field.name not in data:
            continue
        kind, many = field.message_type, isinstance(data[field.name], list)
        if kind and kind.full_name.startswith("penstock.") and not kind.GetOptions().map_entry:
            found = getattr(message, field.name)
            data[field.name] = [*map(_with_numbers, found)] if many else _with_numbers(found)
        elif field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64):
            found = data[field.name]
            data[field.name] = [int(part) for part in found] if many else int(found)
    return data


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> RenderableType:
    """Aligned columns without boxes, numbers to the right; `empty` where there is no row."""
    if not rows:
        return empty
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        numeric = all(isinstance(value, int | float) for value in values)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(cell, row))
    return drawn


def cell(value: object) -> str | Text:
    match value:
        case Text():
            return value
        case None | "":
            return EMPTY
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else str(value)
        case Timestamp():
            return when(value)
        case _:
            return str(value)


def when(stamp: Timestamp) -> str:
    return stamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if stamp.seconds else EMPTY


def state_of(message: Any) -> str:
    """State of a run, a version or an audit, as people read it."""
    return str(message.State.Name(message.state)).removeprefix("STATE_").lower()


def progress(*, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=disable,
    )
