"""validate, apply, pipelines."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli.output import EXIT_USAGE, AsJson, errors, fail, show, table
from penstock.client.client import Penstock
from penstock.contracts.digests import short_digest
from penstock.contracts.load import place, read
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rules import doubts

File = Annotated[Path, typer.Argument(help="A pipeline file.")]


def validate(file: File, as_json_: AsJson = False) -> None:
    """Check a pipeline file without a platform."""
    text = _text(file)
    pipeline = read(text, str(file))
    _warn(pipeline, text, file)
    counts = f"{len(pipeline.sources)} sources, {len(pipeline.resolved_features())} features"
    show(pipeline, f"{file}: pipeline {pipeline.pipeline}, {counts}, no problems", as_json=as_json_)


def apply(file: File, as_json_: AsJson = False) -> None:
    """Check a pipeline file and give it to the platform."""
    text = _text(file)
    with Penstock() as penstock:
        applied = penstock.pipelines.apply(text, file=str(file), by=getpass.getuser())
    _warn(read(text, str(file)), text, file)
    outcome = f"applied {applied.pipeline}" if applied.changed else f"{applied.pipeline} is unchanged"
    show(applied, f"{outcome}, number {applied.number}", as_json=as_json_)


def pipelines(as_json_: AsJson = False) -> None:
    """The platform's pipelines."""
    with Penstock() as penstock:
        found = penstock.pipelines.list()
    rows = [
        (
            p.name,
            p.number,
            p.applied_at,
            p.applied_by,
            short_digest(p.promoted_digest),
            p.generation or None,
        )
        for p in found
    ]
    columns = ("pipeline", "number", "applied", "by", "serves", "generation")
    show(found, table(columns, rows, empty="none yet: penstock apply FILE"), as_json=as_json_)


def _warn(pipeline: Pipeline, text: str, file: Path) -> None:
    """Doubts about a good file, on the standard error."""
    for doubt in place(text, str(file), doubts(pipeline)):
        errors.print(f"warning: {doubt.show(str(file))}", style="yellow")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        fail(f"{file}: no such file", EXIT_USAGE)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read: {error}", EXIT_USAGE)
