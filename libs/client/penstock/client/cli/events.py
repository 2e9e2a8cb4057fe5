"""publish, rejects, erase, dead-letters."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli.output import AsJson, as_json, console, platform, progress, reported, table
from penstock.client.files import rows

dead_letters = typer.Typer(help="Control events that a service could not use.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    for command in (publish, rejects, erase):
        app.command()(reported(command))
    dead_letters.command("list")(reported(list_))
    dead_letters.command("replay")(reported(replay))
    app.add_typer(dead_letters, name="dead-letters")


def publish(
    pipeline: str,
    source: str,
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines or Parquet.")],
    as_json_: AsJson = False,
) -> None:
    """Publish a file's rows as events."""
    with platform() as penstock:
        declared = penstock.pipelines.spec(pipeline).sources.get(source)
        found = rows(file, declared)
        if as_json_:
            published = penstock.events.publish(pipeline, source, found)
            as_json(
                {
                    "events": published.events,
                    "seconds": published.seconds,
                    "offsets": [vars(offset) for offset in published.offsets],
                }
            )
            return
        with progress() as bar:
            task = bar.add_task(f"publish {file.name}", total=None, note="")
            published = penstock.events.publish(
                pipeline, source, found, progress=lambda count: bar.update(task, completed=count)
            )
            bar.update(task, total=published.events, completed=published.events)
    rate = published.events / max(published.seconds, 1e-9)
    console.print(f"{published.events} events on disk in {published.seconds:.1f} s ({rate:,.0f}/s)")


def rejects(
    pipeline: str,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    limit: Annotated[int, typer.Option(help="The newest of each reason.")] = 3,
    as_json_: AsJson = False,
) -> None:
    """Events that broke a rule, by reason and field.

    With examples of each.
    """
    with platform() as penstock:
        found = list(penstock.events.rejects(pipeline, source))
    if as_json_:
        as_json([{"source": name, **reject} for name, reject in found])
        return
    counts = Counter((name, reject["reason"], reject["field"] or "") for name, reject in found)
    table(
        ("source", "reason", "field", "count"),
        [(name, reason, field, count) for (name, reason, field), count in counts.most_common()],
        empty="no rejects",
    )
    shown: Counter[str] = Counter()
    for _, reject in reversed(found):
        if shown[reject["reason"]] < limit:
            shown[reject["reason"]] += 1
            console.print(f"  partition {reject['partition']} offset {reject['offset']}: {reject['detail']}")


def erase(
    pipeline: str,
    entity: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Remove a person from lake, online store and training sets. Asks first where somebody can answer."""
    if not (yes or as_json_) and sys.stdin.isatty():
        typer.confirm(f"Remove `{entity}` from {pipeline} for good?", abort=True)
    with platform() as penstock:
        erased = penstock.features.erase(pipeline, entity)
    if as_json_:
        as_json(erased)
        return
    online = "its online features" if erased.online else "no online features"
    console.print(
        f"removed {erased.lake_rows} lake rows, {erased.training_set_rows} training-set rows, {online}"
    )
    console.print("topics keep its events until their retention ends")


def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that were given back too.")] = False,
    as_json_: AsJson = False,
) -> None:
    """The dead letters that wait, with the reason each was put aside."""
    with platform() as penstock:
        found = [letter for letter in penstock.dead_letters.list() if every or not letter.replayed]
    if as_json_:
        fields = ("id", "topic", "group", "event_type", "reason", "replayed")
        as_json(
            [{field.removeprefix("event_"): getattr(letter, field) for field in fields} for letter in found]
        )
        return
    table(
        ("id", "event", "group", "reason"),
        [(d.id, d.event_type, d.group, d.reason) for d in found],
        empty="no dead letters",
    )


def replay(identity: Annotated[str, typer.Argument(metavar="ID")], as_json_: AsJson = False) -> None:
    """Give a dead letter back to its topic."""
    with platform() as penstock:
        letter = penstock.dead_letters.replay(identity)
    said = {"id": letter.id, "type": letter.event_type, "topic": letter.topic}
    as_json(said) if as_json_ else console.print(f"{letter.event_type} is on {letter.topic} again")
