"""publish, rejects, dead-letters."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from penstock.client import checks
from penstock.client.ages import Ages
from penstock.client.cli.output import EXIT_FAILED, MAX_REJECTS, AsJson, interrupted, progress, show, table
from penstock.client.cli.published import document, event_id, said
from penstock.client.cli.sites import rejects_table
from penstock.client.client import Penstock
from penstock.client.declared import Row
from penstock.client.events import Published
from penstock.client.files import rows
from penstock.client.outcomes import Outcome, outcome, so_far, waiting
from penstock.client.repeats import changed
from penstock.client.site import Site
from penstock.contracts.errors import DeadlineExceeded, Invalid, Unavailable
from penstock.contracts.pipeline import Pipeline

dead_letters = typer.Typer(help="Messages that a service could not use.", no_args_is_help=True)


def publish(
    pipeline: str,
    source: str,
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines or Parquet.")],
    max_rejects: Annotated[float, typer.Option(help="Share of rejects from which it fails.")] = MAX_REJECTS,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV file that is not UTF-8, as cp1252.")] = None,
    site: Annotated[str, typer.Option(help="host:port of a site that takes them instead.")] = "",
    without: Annotated[
        list[str] | None, typer.Option(help="A column that the file lacks, though the model reads it.")
    ] = None,
    as_json_: AsJson = False,
) -> None:
    """Publish a file's rows as events.

    Says what ingest made of them. Ends with 1 where it rejected all, or more than --max-rejects, or
    dropped all as repeats though they differ from what came before.
    """
    if site:
        _publish_at(site, pipeline, source, file, encoding, max_rejects, as_json_)
        return
    with Penstock() as penstock:
        spec = penstock.pipelines.spec(pipeline)
        declared = spec.sources.get(source)
        found = rows(file, declared, encoding=encoding)
        first = list(itertools.islice(found, checks.LOOKED_AT))
        if not first:
            raise Invalid(
                "no row to publish", where=str(file), remedy="A CSV has its header first, then rows"
            )
        sent: Iterator[Row | bytes] = itertools.chain(first, found)
        ages = Ages(spec.training.max_age, datetime.now(UTC))
        if declared:
            checks.check(file, first, declared, spec.key)
            whole = [row for row in first if not isinstance(row, bytes)]
            checks.complete(file, whole, spec, source, without or ())
            sent = ages.of(sent, declared.timestamp)
        published, told = _sent(penstock, spec.pipeline, source, file.name, sent, quiet=as_json_)
        differ = changed(penstock.features, spec, source, first) if told.duplicates else None
    lines = said(published, told, spec, source, first, ages, differ)
    show(document(published, told, ages, differ), *lines, as_json=as_json_)
    too_many = told.rejected > max_rejects * max(1, told.records + told.duplicates + told.rejected)
    if too_many or (differ and not told.records):
        raise typer.Exit(EXIT_FAILED)


def _sent(
    penstock: Penstock, pipeline: str, source: str, name: str, found: Iterator[Row | bytes], *, quiet: bool
) -> tuple[Published, Outcome]:
    """Sends a file's rows and waits until ingest has read them."""
    before = so_far(penstock.events, pipeline, source)
    sent = (
        "stopped by hand: what was sent until then stays, and ingest reads it. To publish the file again is"
        " safe: those rows are duplicates then"
    )
    with interrupted(sent), progress(disable=quiet) as bar:
        task = bar.add_task(f"publish {name}", total=None, note="")
        published = penstock.events.publish(
            pipeline, source, found, progress=lambda count: bar.update(task, completed=count)
        )
        bar.update(task, total=published.events)
        task = bar.add_task("ingest", total=published.events, note="")
        told = outcome(
            penstock.events,
            pipeline,
            source,
            published,
            before,
            lambda count: bar.update(task, completed=count),
        )
    return published, told


def _publish_at(
    endpoint: str,
    pipeline: str,
    source: str,
    file: Path,
    encoding: str | None,
    max_rejects: float,
    as_json: bool,
) -> None:
    with Site(endpoint) as site, progress(disable=as_json) as bar:
        found = rows(file, site.spec(pipeline).sources.get(source), encoding=encoding)
        task = bar.add_task(f"publish {file.name}", total=None, note="")
        taken = site.publish(
            pipeline, source, found, progress=lambda count: bar.update(task, completed=count)
        )
    counts = Counter(one.reason for one in taken.rejected).most_common()
    first = {one.reason: one for one in reversed(taken.rejected)}
    examples = [(count, first[reason]) for reason, count in counts]
    show(
        taken,
        f"{taken.accepted} events on the site's disk, {len(taken.rejected)} rejected",
        *(f"  {count} {one.reason}: {one.detail} (row {one.row + 1})" for count, one in examples),
        as_json=as_json,
    )
    if len(taken.rejected) > max_rejects * max(1, taken.accepted + len(taken.rejected)):
        raise typer.Exit(EXIT_FAILED)


def rejects(
    pipeline: str,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    limit: Annotated[int, typer.Option(help="The newest of each reason.")] = 3,
    as_json_: AsJson = False,
) -> None:
    """Events that broke a rule, by reason and field.

    With examples of each; those that sites refused besides.
    """
    with Penstock() as penstock:
        found = list(penstock.events.rejects(pipeline, source))
        unread = _unread(penstock, pipeline, source)
        spec = _declared(penstock, pipeline) if found and not as_json_ else None
        at_sites = _at_sites(penstock, pipeline, source)
    counts = Counter((name, reject["reason"], reject["field"] or "") for name, reject in found)
    by_reason = [(*group, count) for group, count in counts.most_common()]
    shown: Counter[str] = Counter()
    examples = []
    for name, reject in reversed(found):
        if shown[reject["reason"]] < limit:
            shown[reject["reason"]] += 1
            identity = event_id(reject, spec.sources.get(name)) if spec else ""
            event = f"event {identity}, " if identity else ""
            place = f"partition {reject['partition']} offset {reject['offset']}"
            examples.append(f"  {event}{place}: {reject['detail']}")
    show(
        [{"source": name, **reject} for name, reject in found],
        table(("source", "reason", "field", "count"), by_reason, empty="no rejects"),
        *examples,
        *([unread] if unread else []),
        *at_sites,
        as_json=as_json_,
    )


def _at_sites(penstock: Penstock, pipeline: str, source: str | None) -> list[RenderableType]:
    try:
        sites = penstock.sites.list()
    except (Unavailable, DeadlineExceeded) as error:
        return [f"the hub does not answer, so sites may have refused more: {error}"]
    for site in sites:
        of_others = [
            one for one in site.status.rejects if pipeline != one.pipeline or source not in (None, one.source)
        ]
        for one in of_others:
            site.status.rejects.remove(one)
    if not any(site.status.rejects for site in sites):
        return []
    return ["refused where they were published, since each site's start:", rejects_table(sites)]


def _declared(penstock: Penstock, pipeline: str) -> Pipeline | None:
    """The pipeline file, by which an event's id is shown; None while the registry does not answer."""
    with suppress(Unavailable, DeadlineExceeded):
        return penstock.pipelines.spec(pipeline)
    return None


def _unread(penstock: Penstock, pipeline: str, source: str | None) -> str:
    """A sentence on events that no rule has judged yet; nothing where there are none."""
    try:
        names = [source] if source else penstock.pipelines.spec(pipeline).sources
        left = sum(waiting(penstock.events.counts(pipeline, name)) for name in names)
    except (Unavailable, DeadlineExceeded) as error:
        return f"ingest does not answer, so there may be more: {error}"
    return f"ingest still reads: {left} events wait, so there may be more" if left else ""


@dead_letters.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that were given back too.")] = False,
    as_json_: AsJson = False,
) -> None:
    """The dead letters that wait, with the reason each was put aside."""
    with Penstock() as penstock:
        found = [letter for letter in penstock.dead_letters.list() if every or not letter.replayed]
    fields = ("id", "topic", "group", "event_type", "reason", "replayed")
    show(
        [{field.removeprefix("event_"): getattr(letter, field) for field in fields} for letter in found],
        table(
            ("id", "event", "group", "reason"),
            [(letter.id, letter.event_type, letter.group, letter.reason) for letter in found],
            empty="no dead letters",
        ),
        as_json=as_json_,
    )


@dead_letters.command()
def replay(identity: Annotated[str, typer.Argument(metavar="ID")], as_json_: AsJson = False) -> None:
    """Give a dead letter back to its topic."""
    with Penstock() as penstock:
        letter = penstock.dead_letters.replay(identity)
    given_back = {"id": letter.id, "type": letter.event_type, "topic": letter.topic}
    show(given_back, f"{letter.event_type} is on {letter.topic} again", as_json=as_json_)
