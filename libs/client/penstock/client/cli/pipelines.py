"""validate, apply, pipelines, delete."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli import against
from penstock.client.cli.output import (
    EXIT_FAILED,
    EXIT_USAGE,
    MAX_REJECTS,
    AsJson,
    agreed,
    counted,
    errors,
    fail,
    show,
    table,
)
from penstock.client.client import Penstock
from penstock.client.pipelines import stopped
from penstock.contracts.digests import short_digest
from penstock.contracts.load import place, read
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.rules import doubts

File = Annotated[Path, typer.Argument(help="A pipeline file.")]


def validate(
    file: File,
    data: Annotated[
        Path | None,
        typer.Option("--against", help="A file to be published: do its columns fit, has it enough rows?"),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Its source; by default the target's.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV file that is not UTF-8, as cp1252.")] = None,
    as_json_: AsJson = False,
) -> None:
    """Check a pipeline file without a platform.

    With --against, says what a perfectly fair model of the data would show at each fairness gate, and
    warns of rows that would be rejected (it ends with 1 where publish would) and of inputs that give a
    protected column back.
    """
    text = _text(file)
    pipeline = read(text, str(file))
    warned = _warn(pipeline, text, file)
    sources = counted(len(pipeline.sources), "source")
    features = counted(len(pipeline.resolved_features()), "feature")
    found = "no problems" + (f", {counted(warned, 'warning')}" if warned else "")
    summary = f"{file}: pipeline {pipeline.pipeline}, {sources}, {features}, {found}"
    if data is None:
        show(pipeline, summary, as_json=as_json_)
        return
    seen, judged = against.against(pipeline, data, source, encoding, quiet=as_json_)
    given = against.given_back(pipeline, data, source, encoding) if seen.rows else []
    against.warned(given, file)
    document = {"pipeline": pipeline, "against": against.document(seen, judged, given)}
    said = against.said(seen, judged, data, pipeline.audit.confidence)
    show(document, summary, *said, as_json=as_json_)
    if judged.rejected > MAX_REJECTS * judged.rows:
        raise typer.Exit(EXIT_FAILED)


def apply(file: File, as_json_: AsJson = False) -> None:
    """Check a pipeline file and give it to the platform."""
    text = _text(file)
    with Penstock() as penstock:
        before = {one.name: stopped(one) for one in penstock.pipelines.list()}
        applied = penstock.pipelines.apply(text, file=str(file), by=getpass.getuser())
    pipeline = read(text, str(file))
    _warn(pipeline, text, file)
    outcome = f"applied {applied.pipeline}" if applied.changed else f"{applied.pipeline} is unchanged"
    said = [f"{outcome}, number {applied.number}"]
    if (why := before.get(applied.pipeline)) and not pipeline.serving.stopped:
        said.append(f"it is stopped no longer, as this file has no serving.stopped; the reason was: {why}")
    show(applied, *said, as_json=as_json_)


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
            "stopped" if stopped(p) else short_digest(p.promoted_digest),
            p.generation or None,
        )
        for p in found
    ]
    columns = ("pipeline", "number", "applied", "by", "serves", "generation")
    show(found, table(columns, rows, empty="none yet: penstock apply FILE"), as_json=as_json_)


def delete(
    pipeline: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Delete a pipeline that never served, with its data. Asks first; a script says --yes."""
    agreed(f"Delete {pipeline}, its events, training sets and versions for good?", yes=yes)
    with Penstock() as penstock:
        deleted = penstock.pipelines.delete(pipeline, by=getpass.getuser())
    if not deleted.topics:
        show(deleted, f"{pipeline} is deleted already", as_json=as_json_)
        return
    topics, versions = counted(len(deleted.topics), "topic"), counted(deleted.versions, "version")
    show(
        deleted,
        f"deleted {pipeline}: its file up to number {deleted.number}, {topics} with their events, {versions};"
        " lake, online features and training sets go in some seconds",
        "its runs and its audits with their reports stay",
        as_json=as_json_,
    )


def _warn(pipeline: Pipeline, text: str, file: Path) -> int:
    """Prints doubts about a good file on the standard error, and counts them: a line each, which a
    terminal has broken between words.
    """
    found = place(text, str(file), doubts(pipeline))
    for doubt in found:
        errors.print(f"warning: {doubt.show(str(file))}", style="yellow", soft_wrap=not errors.file.isatty())
    return len(found)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        fail(f"{file}: no such file; penstock init writes a first one from your data", EXIT_USAGE)
    except UnicodeDecodeError:
        fail(f"{file}: is not UTF-8; save it in that encoding", EXIT_USAGE)
    except OSError as error:
        fail(f"{file}: cannot be read: {error}", EXIT_USAGE)
