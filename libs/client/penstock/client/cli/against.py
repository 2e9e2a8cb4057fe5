"""validate --against: the columns that do not fit a source, and what an audit of the rows could show."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType

from penstock.client import checks
from penstock.client.ages import Ages, advice
from penstock.client.cli.output import EXIT_USAGE, MOST_KINDS, console, counted, errors, progress, table
from penstock.client.declared import Row, columns_of
from penstock.client.files import rows
from penstock.client.guess.table import Column, read_table
from penstock.client.judged import Judged
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.measures import words
from penstock.contracts.pipeline import Pipeline

if TYPE_CHECKING:
    from penstock.client.guess.proxies import Proxy
    from penstock.client.prospect import Outlook, Prospect


def against(
    pipeline: Pipeline, data: Path, source: str | None, encoding: str | None, *, quiet: bool
) -> tuple[Prospect, Judged]:
    """Compares a file with a source, by default the target's. Prints what does not fit and ends with 2;
    else reads all its rows, judges them as ingest will, and warns of columns that it lacks, of rows that
    would be rejected, and where most are old. The prospect is of those that become records. Raises
    NotFound, and Invalid where it cannot be read.
    """
    source = source or pipeline.target.source_field.partition(".")[0]
    if source not in pipeline.sources:
        sources = ", ".join(pipeline.sources)
        raise NotFound(f"the pipeline has no source `{source}`", remedy=f"Its sources: {sources}")
    try:
        from penstock.client.prospect import prospect  # the `init` extra
    except ImportError as error:
        raise Invalid("--against needs numpy", remedy="pip install 'penstock-client[init]'") from error
    declared = pipeline.sources[source]
    found = rows(data, declared, encoding=encoding)
    first = list(itertools.islice(found, checks.LOOKED_AT))
    looked_at = [row for row in first if not isinstance(row, bytes)]
    if misfits := list(checks.compared(looked_at, declared, pipeline.key)):
        for misfit in misfits:
            errors.print(f"{data}: {misfit}", style="red")
        raise typer.Exit(EXIT_USAGE)
    now = datetime.now(UTC)
    ages, judged = Ages(pipeline.training.max_age, now), Judged(pipeline, source, now)
    read = ages.of(judged.of(_told(itertools.chain(first, found), data, quiet=quiet)), declared.timestamp)
    seen = prospect(pipeline, source, read)
    if judged.rejected:
        kinds = "".join(f"\n  {kind.said}" for kind in judged.kinds[:MOST_KINDS])
        if (others := len(judged.kinds) - MOST_KINDS) > 0:
            kinds += f"\n  and {counted(others, 'other kind')}"
        _warn(f"{data}: {judged.rejected:,} of {judged.rows:,} rows would be rejected:{kinds}")
    for column, lacks in checks.lacking(data, looked_at, pipeline, source).items():
        _warn(f"{data}: {lacks}; `publish` asks for `--without {shlex.quote(column)}` then")
    for old in advice(ages, pipeline, source):
        _warn(f"{data}: {old}")
    return seen, judged


def _told(found: Iterator[Row | bytes], data: Path, *, quiet: bool) -> Iterator[Row | bytes]:
    with progress(disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(f"read {data.name}", total=None, note="rows")
        for count, row in enumerate(found, 1):
            if count % 1000 == 0:
                bar.update(task, completed=count)
            yield row


def given_back(pipeline: Pipeline, data: Path, source: str | None, encoding: str | None) -> list[Proxy]:
    """Finds inputs that give protected columns back, on a sample of the file's rows; Invalid of none."""
    from penstock.client.guess.proxies import proxies

    source = source or pipeline.target.source_field.partition(".")[0]
    declared = pipeline.sources[source]
    names = columns_of(declared, pipeline.key)
    columns = [
        Column(one.name, name, [None if value in declared.missing else value for value in one.values])
        for one in read_table(data, encoding).columns
        if (name := names.get(one.name, "")) in declared.fields
    ]
    seen = {one.source_field for one in pipeline.resolved_features().values()}
    protected = {name for name, field in declared.fields.items() if field.protected}
    texts = {name for name, field in declared.fields.items() if field.type == "text"}
    able = [one for one in columns if f"{source}.{one.field}" in seen and one.field not in protected | texts]
    return proxies([one for one in columns if one.field in protected], able)


def warned(found: list[Proxy], file: Path) -> None:
    """Prints what gives a protected column back on the standard error, a line each."""
    for one in found:
        _warn(f"{file}: {one.said}; leave out what you can spare, or mark it `protected`")


def _warn(said: str) -> None:
    errors.print(f"warning: {said}", style="yellow", soft_wrap=not errors.file.isatty())


def said(found: Prospect, judged: Judged, data: Path, confidence: float) -> list[RenderableType]:
    """Says of each gate what chance alone does to it, in a table."""
    rows = f"{found.rows:,} records of {judged.rows:,} rows" if judged.rejected else f"{found.rows:,} rows"
    counts = f"{data}: {rows}, {found.labelled:,} with a label, about {found.audited:,} audited"
    if not found.gates:
        return [f"{counts}; nothing can be said of these gates"]
    columns = ("gate", "a fair model shows", "labelled rows needed", "to be reached", "")
    shown: list[RenderableType] = [counts, table(columns, [*map(_line, found.gates)], empty="")]
    if any(one.fair is not None for one in found.gates):
        shown.append(
            f"A fair model's {confidence:.0%} interval ends there half of the time, by chance alone. With"
            " the rows needed, four of five fair models pass."
        )
    if any(one.reach is not None for one in found.gates):
        shown.append("Of models that truly are as good as is to be reached, four of five pass.")
    return shown


def _line(one: Outlook) -> tuple[object, ...]:
    gate = one.gate
    by = f" by {gate.by}" if gate.by else ""
    rule = f"{words(gate.metric)}{by} {'≥' if gate.bound == 'at_least' else '≤'} {gate.limit:g}"
    fair, reach = (None if value is None else f"{value:.2f}" for value in (one.fair, one.reach))
    return rule, fair, one.needs, reach, one.why or " "


def document(found: Prospect, judged: Judged, given: list[Proxy]) -> dict[str, Any]:
    """Builds what `--json` prints."""
    gates = [
        one.gate.model_dump(include={"metric", "by", "at_least", "at_most"}, exclude_none=True)
        | {"fair": one.fair, "rows_needed": one.needs, "to_be_reached": one.reach, "why": one.why}
        for one in found.gates
    ]
    rejects = [
        {"reason": kind.reject.reason, "field": kind.reject.field, "count": kind.count, "row": kind.row}
        for kind in judged.kinds
    ]
    counts = {"rows": judged.rows, "rejected": judged.rejected, "rejects": rejects}
    counts |= {"labelled": found.labelled, "audited": found.audited}
    proxies = [{"protected": one.protected, "inputs": one.inputs, "r2": one.r2} for one in given]
    return counts | {"gates": gates, "proxies": proxies}
