"""publish, rejects, erase, dead-letters."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli.output import AsJson, progress, show, table
from penstock.client.client import Penstock
from penstock.client.files import rows

dead_letters = typer.Typer(help="Messages that a service could not use.", no_args_is_help=True)


def publish(
    pipeline: str,
    source: str,
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines or Parquet.")],
    as_json_: AsJson = False,
) -> None:
    """Publish a file's rows as events."""
    with Penstock() as penstock:
        found = rows(file, penstock.pipelines.spec(pipeline).sources.get(source))
        with progress(disable=as_json_) as bar:
            task = bar.add_task(f"publish {file.name}", total=None, note="")
            published = penstock.events.publish(
                pipeline, source, found, progress=lambda count: bar.update(task, completed=count)
            )
            bar.update(task, total=published.events)
    rate = published.events / max(published.seconds, 1e-9)
    show(
        {"events": published.events, "seconds": published.seconds, "offsets": published.offsets},
        f"{published.events} events on disk in {published.seconds:.1f} s ({rate:,.0f}/s)",
        as_json=as_json_,
    )


def rejects(
    pipeline: str,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    limit: Annotated[int, typer.Option(help="The newest of each reason.")] = 3,
    as_json_: AsJson = False,
) -> None:
    """Events that broke a rule, by reason and field.

    With examples of each.
    """
    with Penstock() as penstock:
        found = list(penstock.events.rejects(pipeline, source))
    counts = Counter((name, reject["reason"], reject["field"] or "") for name, reject in found)
    by_reason = [(*group, count) for group, count in counts.most_common()]
    shown: Counter[str] = Counter()
    examples = []
    for _, reject in reversed(found):
        if shown[reject["reason"]] < limit:
            shown[reject["reason"]] += 1
            examples.append(
                f"  partition {reject['partition']} offset {reject['offset']}: {reject['detail']}"
            )
    show(
        [{"source": name, **reject} for name, reject in found],
        table(("source", "reason", "field", "count"), by_reason, empty="no rejects"),
        *examples,
        as_json=as_json_,
    )


def erase(
    pipeline: str,
    entity: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Remove a person from lake, online store and training sets. Asks first where somebody can answer."""
    if not (yes or as_json_) and sys.stdin.isatty():
        typer.confirm(f"Remove `{entity}` from {pipeline} for good?", abort=True)
    with Penstock() as penstock:
        erased = penstock.features.erase(pipeline, entity)
    online = "its online features" if erased.online else "no online features"
    show(
        erased,
        f"removed {erased.lake_rows} lake rows, {erased.training_set_rows} training-set rows, {online}",
        "topics keep its events until their retention ends",
        as_json=as_json_,
    )


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
