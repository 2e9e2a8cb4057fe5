"""tune, study."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live

from penstock.client.cli.costs import FIGURES, NO_FIGURES, figures
from penstock.client.cli.following import attempts, until_ended, until_served_or_refused, waiting_for
from penstock.client.cli.leaderboard import head, leaderboard, sentences, why
from penstock.client.cli.output import (
    EXIT_INTERRUPTED,
    AsJson,
    console,
    fail,
    interrupted,
    show,
    state_of,
    table,
    write_page,
    writing,
)
from penstock.client.cli.study_report.page import render
from penstock.client.cli.training import refuse_nothing
from penstock.client.client import Penstock
from penstock.client.rewriting import rewritten
from penstock.client.studies import ENDED
from penstock.contracts.durations import parse_duration
from penstock.contracts.errors import Invalid, NotFound, PenstockError, Unavailable
from penstock.contracts.pipeline import Gate
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.tuner.v1 import tuner_pb2 as tuner

RUN_WITHIN_S = 60.0  # from a study's end until the trainer has heard of its run

Trials = Annotated[int, typer.Option("--trials", min=0, help="How many values to try, your own among them.")]
Time = Annotated[str, typer.Option("--time", help="How long: 10m, 2h.")]
Write = Annotated[Path | None, typer.Option("--write", help="Edit this pipeline file; comments stay.")]
StudyId = Annotated[str, typer.Argument(help="As `penstock study list` shows it.")]

study = typer.Typer(help="Tuning studies: what was tried, and what came of it.", no_args_is_help=True)


def tune(
    pipeline: str,
    trials: Trials = 0,
    time_: Time = "",
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the version found is refused, or promoted and served.")
    ] = False,
    earlier: Annotated[
        str, typer.Option("--from", metavar="STUDY", help="Know this study's trials, of the same split.")
    ] = "",
    write: Write = None,
    as_json_: AsJson = False,
) -> None:
    """Look for a better model than the file's own values give."""
    if write is not None:
        _writable(write, pipeline)
    with Penstock() as penstock:
        refuse_nothing(penstock, pipeline)
        others = [one.study_id for one in penstock.studies.list(pipeline) if one.state not in ENDED]
        begun = penstock.studies.create(
            pipeline,
            trials=trials,
            time=_duration(time_),
            after=penstock.events.end_offsets(pipeline),
            continues=earlier,
            by=getpass.getuser(),
        )
        if others and not as_json_:
            console.print(f"also under way: study {', '.join(others)}; both go on, and share the processor")
        if detach:
            watch_it = f"Watch it: penstock study show {begun.study_id}"
            show(begun, f"study {begun.study_id} requested. {watch_it}", as_json=as_json_)
        else:
            _until_the_end(penstock, begun, wait=wait, write=write, as_json=as_json_)


@study.command("list")
def list_(
    pipeline: Annotated[str, typer.Argument(help="Only of this pipeline.")] = "", as_json_: AsJson = False
) -> None:
    """Studies, newest first."""
    with Penstock() as penstock:
        found = penstock.studies.list(pipeline)
    rows = [
        (
            one.study_id,
            one.pipeline,
            state_of(one),
            f"{one.trials_ended}/{one.trials_planned or '∞'}",
            str(one.best) if one.HasField("best") else "",
            one.failure or one.conclusion,
            one.requested_at,
            *(figures(one.cost) if one.HasField("cost") else NO_FIGURES),
        )
        for one in found
    ]
    columns = ("study", "pipeline", "state", "trials", "best", "why", "requested", *FIGURES)
    show(found, table(columns, rows, empty="none yet: penstock tune PIPELINE"), as_json=as_json_)


@study.command("show")
def show_(study_id: StudyId, write: Write = None, as_json_: AsJson = False) -> None:
    """The trials of a study, the best first."""
    with Penstock() as penstock:
        found = penstock.studies.get(study_id)
    show(found, head(found), leaderboard(found), *sentences(found), as_json=as_json_)
    if write is not None:
        _writable(write, found.pipeline)
        _write(found, write, quiet=as_json_)


@study.command("report")
def report(
    study_id: StudyId,
    output: Annotated[
        Path | None, typer.Option("--to", "--output", help="Where to write; by default study-<id>.html here.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json_: AsJson = False,
) -> None:
    """A page of the study for people, with its plots; or the study as JSON."""
    with Penstock() as penstock:
        found = penstock.studies.get(study_id)
        gates = () if as_json_ else _gates(penstock, found.pipeline)
    if as_json_:
        show(found, as_json=True)
    else:
        page = render(found, gates).encode()
        write_page(output or Path(f"study-{found.study_id}.html"), page, open_=open_)


@study.command("extend")
def extend(
    study_id: StudyId,
    trials: Trials = 0,
    time_: Time = "",
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running.")] = False,
    as_json_: AsJson = False,
) -> None:
    """Go on with a study that has ended, for so many trials or so long."""
    with Penstock() as penstock:
        begun = penstock.studies.extend(study_id, trials=trials, time=_duration(time_), by=getpass.getuser())
        if detach:
            show(begun, f"study {study_id} goes on", as_json=as_json_)
        else:
            _until_the_end(penstock, begun, wait=False, write=None, as_json=as_json_)


# -- a study that is under way ---------------------------------------------------------------------


def _until_the_end(
    penstock: Penstock, begun: tuner.Study, *, wait: bool, write: Path | None, as_json: bool
) -> None:
    """Shows the study until it has ended, and what came of it. Ctrl-C ends it; what it tried is kept."""
    try:
        found = _followed(penstock, begun, quiet=as_json)
    except KeyboardInterrupt:
        found = penstock.studies.cancel(begun.study_id, by=getpass.getuser())
        show(found, leaderboard(found, short=True), *sentences(found), as_json=as_json)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if found.state != tuner.Study.STATE_COMPLETED:
        show(found, leaderboard(found), *sentences(found), as_json=as_json)
        fail(f"study {found.study_id} {state_of(found)}: {why(found)}")
    if not as_json:
        show(found, leaderboard(found, short=True), *sentences(found), as_json=False)
    if write is not None:
        _write(found, write, quiet=as_json)
    if found.run_id and wait:
        until_served_or_refused(penstock, _requested(penstock, found.run_id), as_json=as_json, study=found)
    elif as_json:
        show(found, as_json=True)


def _followed(penstock: Penstock, begun: tuner.Study, *, quiet: bool) -> tuner.Study:
    """The study when it has ended; a table while it searches."""
    found, spent, since = begun, begun.time_spent_s, time.monotonic()
    with Live(console=console, auto_refresh=False, screen=False, transient=True) as live:
        for found in until_ended(penstock.studies.watch, begun.study_id, ENDED):
            if quiet:
                continue
            if found.time_spent_s != spent:
                spent, since = found.time_spent_s, time.monotonic()
            waits = "" if found.trials else waiting_for(penstock)
            said = head(found, since=time.monotonic() - since) + waits
            live.update(Group(said, leaderboard(found, short=True)), refresh=True)
    return found


def _requested(penstock: Penstock, run_id: str) -> trainer.Run:
    """The run, once the trainer has heard of it."""
    with interrupted(f"no longer waiting: run {run_id} goes on. See it: penstock runs"):
        for _ in attempts(RUN_WITHIN_S, every=0.25):
            with suppress(NotFound, Unavailable):
                return penstock.runs.get(run_id)
    raise Unavailable(
        f"the trainer has not heard of run {run_id} within {RUN_WITHIN_S:.0f} s",
        remedy="It goes on: see penstock status, then penstock runs",
    )


def _gates(penstock: Penstock, pipeline: str) -> Sequence[Gate]:
    """Gates of its newest file; none where the registry cannot say: the page is of use without."""
    with suppress(PenstockError):
        return penstock.pipelines.spec(pipeline).audit.gates
    return ()


# -- what is asked for -----------------------------------------------------------------------------


def _duration(text: str) -> timedelta:
    if not text:
        return timedelta(0)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise Invalid(f"`{text}`: {error}", where="--time", remedy="Write 10m, 90s or 2h") from error


def _writable(file: Path, pipeline: str) -> None:
    """Raises Invalid before anything starts where the file could not be edited at the end."""
    if not file.is_file():
        raise Invalid("there is no such file", where=str(file), remedy=f"Give the file of `{pipeline}`")
    text = file.read_text()
    rewritten(text, {}, str(file), pipeline)


def _write(found: tuner.Study, file: Path, *, quiet: bool) -> None:
    """Writes the best trial's values into the file; the file's own stay where they are the best."""
    best = next((trial for trial in found.trials if trial.number == found.best), None)
    if best is None or not found.best:
        said = f"{file} stays as it is"
    else:
        text = rewritten(file.read_text(), json.loads(best.overrides_json), str(file), found.pipeline)
        with writing(file):
            file.write_text(text)
        said = f"{file} has the values of trial {best.number}. Apply it: penstock apply {file}"
    if not quiet:
        console.print(said)
