"""init, validate, apply, pipelines."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli.output import (
    EXIT_USAGE,
    AsJson,
    as_json,
    console,
    fail,
    platform,
    reported,
    table,
    when,
)
from penstock.client.infer import infer
from penstock.contracts.digests import short_digest
from penstock.contracts.load import BadPipeline, read

File = Annotated[Path, typer.Argument(help="A pipeline file.")]


def register(app: typer.Typer) -> None:
    for command in (init, validate, apply, pipelines):
        app.command()(reported(command))


def init(
    source: Annotated[Path, typer.Option("--from", help="CSV, JSON Lines or Parquet.")],
    to: Annotated[Path, typer.Option("--to", help="Where to write.")] = Path("pipeline.yaml"),
    as_json_: AsJson = False,
) -> None:
    """Write a first pipeline file for data that is at hand."""
    if to.exists():
        fail(f"{to} exists; choose another name with --to", EXIT_USAGE)
    text = infer(source)
    to.write_text(text)
    lacks: list[str] = []
    try:
        read(text, str(to))
    except BadPipeline as error:
        lacks = [problem.show(str(to)) for problem in error.problems]
    if as_json_:
        as_json({"file": str(to), "problems": lacks})
        return
    for problem in lacks:
        console.print(problem)
    console.print(f"wrote {to}. {'Mend that' if lacks else 'Read it'}, then: penstock validate {to}")


def validate(file: File, as_json_: AsJson = False) -> None:
    """Check a pipeline file without a platform."""
    pipeline = read(_text(file), str(file))
    features = pipeline.resolved_features()
    if as_json_:
        as_json(pipeline.model_dump(mode="json", by_alias=True))
        return
    console.print(
        f"{file}: pipeline {pipeline.pipeline}, {len(pipeline.sources)} sources, {len(features)} features, no"
        " problems",
        markup=False,
    )


def apply(file: File, as_json_: AsJson = False) -> None:
    """Check a pipeline file and give it to the platform."""
    with platform() as penstock:
        applied = penstock.pipelines.apply(_text(file), file=str(file), by=getpass.getuser())
    if as_json_:
        as_json(applied)
    elif applied.changed:
        console.print(f"applied {applied.pipeline}, number {applied.number}")
    else:
        console.print(f"{applied.pipeline} is unchanged, number {applied.number}")


def pipelines(as_json_: AsJson = False) -> None:
    """The platform's pipelines."""
    with platform() as penstock:
        found = penstock.pipelines.list()
    if as_json_:
        as_json(found)
        return
    rows = [
        (
            p.name,
            p.number,
            when(p.applied_at),
            p.applied_by,
            short_digest(p.promoted_digest),
            p.generation or None,
        )
        for p in found
    ]
    table(
        ("pipeline", "number", "applied", "by", "serves", "generation"),
        rows,
        empty="none yet: penstock apply FILE",
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        fail(f"{file}: no such file", EXIT_USAGE)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read: {error}", EXIT_USAGE)
