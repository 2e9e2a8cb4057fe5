"""Output of a command for a person and for a program, and its exit code."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from penstock.client.client import Penstock
from penstock.client.settings import ClientSettings
from penstock.contracts.errors import TREATMENTS, PenstockError

P = ParamSpec("P")
R = TypeVar("R")

WIDE = None if sys.stdout.isatty() else 200
"""Columns where there is no terminal to ask: a program or a file reads on."""

console = Console(highlight=False, soft_wrap=True, markup=False, width=WIDE)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Ends the command with the error's sentence and exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
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
        except KeyboardInterrupt:
            fail("stopped by hand", 130)

    return wrapped


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    errors.print(message, style="red")
    raise typer.Exit(code)


@contextmanager
def platform() -> Iterator[Penstock]:
    with Penstock() as penstock:
        yield penstock


def as_json(value: Any) -> None:
    """Messages with their proto names, times as RFC 3339; 64-bit numbers as numbers."""
    sys.stdout.write(json.dumps(_jsonable(value), indent=2, ensure_ascii=False) + "\n")


def _jsonable(value: Any) -> Any:
    match value:
        case Message():
            return _with_numbers(
                value,
                MessageToDict(
                    value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                ),
            )
        case Mapping():
            return {key: _jsonable(part) for key, part in value.items()}
        case list() | tuple():
            return [_jsonable(part) for part in value]
        case datetime():
            return value.isoformat()
        case _:
            return value


def _with_numbers(message: Message, data: dict[str, Any]) -> dict[str, Any]:
    """Protobuf's JSON writes int64 as text; here every count fits a double, and programs want numbers."""
    for field in message.DESCRIPTOR.fields:
        if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) and field.name in data:
            found = data[field.name]
            data[field.name] = [int(part) for part in found] if isinstance(found, list) else int(found)
    return data


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Aligned columns without boxes; numbers to the right."""
    if not rows:
        console.print(empty)
        return
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    console.print(drawn)


def cell(value: object) -> str:
    match value:
        case None | "":
            return "–"
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
    if not stamp.seconds:
        return "–"
    return stamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")


def progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=False,
    )
