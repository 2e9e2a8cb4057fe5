"""init: from data at hand to a first pipeline file."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli.output import (
    EXIT_USAGE,
    AsJson,
    console,
    fail,
    progress,
    show,
    writable,
    write_privately,
    writing,
)
from penstock.client.guess.decide import Answers
from penstock.client.guess.fields import Field
from penstock.client.guess.infer import First, first
from penstock.client.guess.report import report as page
from penstock.client.guess.table import Table, read_table
from penstock.client.guess.targets import Target
from penstock.client.guess.write import few
from penstock.contracts.load import BadPipeline, read
from penstock.contracts.rules import nearest

_SHOWN = 20
"""Most columns that a question lists; all are answers."""

_DOUBTS = 5
"""Most doubts that the terminal shows; all stand in the file."""

Data = Annotated[Path, typer.Option("--from", help="CSV, JSON Lines or Parquet.")]
To = Annotated[Path, typer.Option("--to", help="Where to write.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of a CSV file that is not UTF-8, as cp1252.")]
Report = Annotated[Path | None, typer.Option(help="Write a page on the data, too: HTML.")]


def init(
    source: Data,
    to: To = Path("pipeline.yaml"),
    target: Annotated[str | None, typer.Option(help="The column that a model is to answer.")] = None,
    encoding: Encoding = None,
    report: Report = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take every guess, ask nothing.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Write a first pipeline file for data that is at hand.

    Asks, where somebody can answer, each question with the guess as its answer.
    """
    if to.exists():
        fail(f"{to} exists; choose another name with --to", EXIT_USAGE)
    for path in (to, report):
        if path:
            writable(path)
    table = _read(source, encoding, quiet=as_json_)
    found = first(table, Answers(target=target))
    if not (yes or as_json_) and answers_come():
        found = first(table, _asked(found))
    with writing(to):
        to.write_text(found.text, encoding="utf-8")
    if report:
        write_privately(report, page(found).encode())
    lacks: list[str] = []
    try:
        read(found.text, str(to))
    except BadPipeline as error:
        lacks = [problem.show(str(to)) for problem in error.problems]
    fields, guess = found.guess.fields, found.guess.target
    next_step = f"wrote {to}. {'Mend that' if lacks else 'Read it'}, then: penstock validate {to}"
    document = {
        "file": str(to),
        "problems": lacks,
        "target": guess.field.name,
        "type": guess.task,
        "close": list(guess.close),
        "left_out": {one.name: one.left_out for one in fields if one.left_out},
        "doubts": {one.name: one.doubt for one in fields if one.doubt},
    }
    show(document, _said(guess), *_noted(found), *lacks, next_step, as_json=as_json_)
    if lacks:
        raise typer.Exit(1)


def _said(target: Target) -> str:
    """The target, how sure it is, and how to take another."""
    said = f"target    {target.field.name}: {target.task}"
    said += f", positive {target.positive}" if target.positive is not None else ""
    said += f"; {target.because}" if target.mere else ""
    if target.close:
        said += f"; {'else' if target.mere else 'nearly as likely:'} {' or '.join(target.close)}"
        said += f": --target {target.close[0]}"
    return said


def _noted(found: First) -> Iterator[str]:
    """Lines on columns that are protected, left out or doubted, and where rows are few or old."""
    guarded = ", ".join(one.name for one in found.guess.fields if one.protected)
    yield f"protected {guarded or 'none by its name; name those that are in the file'}"
    if short := few(found.guess.table):
        yield f"few       {short}"
    if old := found.ages.said:
        done = "the file lets them by" if found.ages.all_older else "to let them, write"
        yield f"old       {old}; {done} `training: {{max_age: {found.ages.enough}}}`"
    yield from (f"left out  {one.name}: {one.left_out}" for one in found.guess.fields if one.left_out)
    doubts = [one.doubt for one in found.guess.fields if one.doubt]
    yield from (f"doubt     {doubt}" for doubt in doubts[:_DOUBTS])
    if len(doubts) > _DOUBTS:
        yield f"          and {len(doubts) - _DOUBTS} more such in the file"


def answers_come() -> bool:
    """Tells whether a person sits at the terminal."""
    return sys.stdin.isatty()


def _read(source: Path, encoding: str | None, *, quiet: bool) -> Table:
    with progress(disable=quiet or not console.is_terminal) as bar:
        size = source.stat().st_size if source.is_file() else 0
        task = bar.add_task(f"read {source.name}", total=size, note="bytes")
        found = read_table(source, encoding, lambda read_: bar.update(task, completed=read_))
        bar.update(task, completed=size)
    return found


def _asked(found: First) -> Answers:
    """A person's answers, the guess being the default of each."""
    guess, answers = found.guess, Answers()
    names = {column.field for column in guess.table.columns}
    fields = [one.name for one in guess.fields]
    likely = [guess.target.field.name, *guess.target.close]
    rest = [name for name in fields if name not in likely]
    more = f" and {len(rest) - _SHOWN} more" if len(rest) > _SHOWN else ""
    others = f"{' or '.join(likely)}; else {', '.join(rest[:_SHOWN])}{more}"
    guessed = f"{guess.target.because}: " if guess.target.mere else ""
    told = _ask(f"Column to be answered? ({guessed}{others})", likely[0], fields)
    if told != guess.target.field.name:
        found = first(guess.table, replace(answers, target=told))
        guess = found.guess
    answers = replace(answers, target=told)
    if guess.target.positive is not None:
        of_target = list(guess.target.field.column.counts)
        values = " or ".join(of_target)
        told = _ask(f"Value that counts as yes? ({values})", guess.target.positive, of_target)
        answers = replace(answers, positive=told)
    for key, question, column, otherwise in (
        ("id", "Column that names a row?", guess.id, "row content"),
        ("timestamp", "Column that says when?", guess.timestamp, "time of publishing"),
    ):
        if key == "id" and column and column.numbers_rows:
            question += f" (this one counts this file's: if the next one begins anew, {otherwise})"
        told = _ask(question, column.field if column else otherwise, [otherwise, *names])
        named = told if told in names else ""
        answers = replace(answers, id=named) if key == "id" else replace(answers, timestamp=named)
    guessed = ", ".join(one.name for one in guess.fields if one.protected) or "none"
    told = _ask("Columns that are protected, for the audit alone?", guessed, ["none", *fields], several=True)
    if told != guessed:
        marked = () if told == "none" else tuple(name.strip() for name in told.split(","))
        answers = replace(answers, protected=marked)
    kept = [one.name for one in guess.fields if one.left_out and one.column.present and _keep(one)]
    return replace(answers, kept=tuple(kept))


def _ask(question: str, default: str, known: Collection[str], *, several: bool = False) -> str:
    """Asks until the answer is known, or each of several with commas between."""
    while True:
        told = str(typer.prompt(question, default)).strip()
        given = [one.strip() for one in told.split(",")] if several else [told]
        unknown = [one for one in given if one not in known]
        if not unknown:
            return told
        typer.echo(f"there is no `{unknown[0]}`{nearest(unknown[0], known)}")


def _keep(one: Field) -> bool:
    return typer.confirm(f"{one.name}: {one.left_out}. Make it an input all the same?", default=False)
