"""train, runs."""

from __future__ import annotations

import getpass
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID
from rich.text import Text

from penstock.client.cli.audits import gates
from penstock.client.cli.costs import FIGURES, NO_FIGURES, figures
from penstock.client.cli.output import (
    EXIT_FAILED,
    EXIT_REFUSED,
    AsJson,
    console,
    fail,
    progress,
    show,
    state_of,
    table,
)
from penstock.client.client import Penstock
from penstock.client.outcomes import waiting
from penstock.client.runs import ENDED
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import DeadlineExceeded, Invalid, NotFound, Unavailable
from penstock.contracts.events import TrainingSet
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer

WAIT_S = 3600.0
LOOK_S = 5.0  # between two looks at a run of which nothing new comes
# A promotion is fetched, verified and probed before it answers.
SERVED_WITHIN_S = 60.0


def train(
    pipeline: str,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="A key of the pipeline file for this run: trainer.epochs=5"),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is refused, or promoted and served.")
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Train on all that was published so far."""
    with Penstock() as penstock:
        _refuse_nothing(penstock, pipeline)
        run = penstock.runs.create(
            pipeline,
            overrides=_overrides(override or []),
            after=penstock.events.end_offsets(pipeline),
            by=getpass.getuser(),
        )
        if wait:
            _until_served_or_refused(penstock, run, as_json=as_json_)
        else:
            watch_it = f"Watch it: penstock runs {pipeline}"
            show(run, f"run {run.run_id} requested. {watch_it}", as_json=as_json_)


def _refuse_nothing(penstock: Penstock, pipeline: str) -> None:
    """Ends the command where ingest has read everything and no label is among it."""
    spec = penstock.pipelines.spec(pipeline)
    source = spec.target.source_field.partition(".")[0]
    with suppress(NotFound, Unavailable, DeadlineExceeded):
        counts = penstock.events.counts(pipeline, source)
        if counts.records or waiting(counts):
            return
        rejects = ", ".join(f"{count} {reason}" for reason, count in counts.rejects.items())
        because = f"all {counts.events} events were rejected ({rejects})" if rejects else "none was published"
        see = f"penstock rejects {pipeline}" if rejects else f"penstock publish {pipeline} {source} FILE"
        fail(f"nothing to train on: source `{source}` has no record, as {because}. See: {see}")


def import_(
    pipeline: str,
    model: Annotated[Path, typer.Argument(help="An ONNX graph: numbers or named features in, answers out.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is refused, or promoted and served.")
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Bring a model made elsewhere; it is audited as any other."""
    if not model.is_file():
        raise Invalid("there is no such file", where=str(model), remedy="Give the path of an ONNX graph")
    with Penstock() as penstock:
        after = penstock.events.end_offsets(pipeline)
        run = penstock.runs.import_model(pipeline, model, after=after, by=getpass.getuser())
        if wait:
            _until_served_or_refused(penstock, run, as_json=as_json_)
        else:
            watch_it = f"Watch it: penstock runs {pipeline}"
            show(run, f"run {run.run_id} imports {model.name}. {watch_it}", as_json=as_json_)


def runs(
    pipeline: Annotated[str, typer.Argument(help="Only of this pipeline.")] = "",
    option: Annotated[str, typer.Option("--pipeline", help="As the argument.", hidden=True)] = "",
    as_json_: AsJson = False,
) -> None:
    """Training runs, newest first."""
    with Penstock() as penstock:
        found = penstock.runs.list(pipeline or option)
    rows = [
        (
            r.run_id,
            r.pipeline,
            state_of(r),
            f"{len(r.epochs)}/{r.epochs_planned}",
            _losses(r),
            short_digest(r.digest),
            r.failure or (f"imports {r.imported_from}" if r.imported_from else r.reason),
            r.requested_at,
            *(figures(r.cost) if r.HasField("cost") else NO_FIGURES),
        )
        for r in found
    ]
    columns = ("run", "pipeline", "state", "epochs", "loss", "version", "why", "requested", *FIGURES)
    of_runs = defaultdict(list)
    for run in found:
        of_runs[chosen(run)].append(run.run_id)
    notes = [f"chosen for {', '.join(ids)}: {choices}" for choices, ids in of_runs.items() if choices]
    listed = table(columns, rows, empty="none yet: penstock train PIPELINE")
    show(found, listed, *notes, as_json=as_json_)


def chosen(run: trainer.Run) -> str:
    """Choices that were made for the training rows, in words: `model.type boosted_trees, trainer.epochs
    60, as the file names no family, and there are 2,000 rows to train on`.
    """
    choices = [f"{key} {value}" for key, value in json.loads(run.chosen_json or "{}").items()]
    return ", ".join(choices + ([f"as {run.chosen_because}"] if run.chosen_because else []))


def _losses(run: trainer.Run) -> str:
    """Losses of the kept model on the training and the validation rows: `0.301 / 0.322`."""
    found = [run.metrics[name] for name in ("train_loss", "validation_loss") if name in run.metrics]
    return " / ".join(f"{loss:.4g}" for loss in found)


def _overrides(given: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise Invalid(f"`{text}` is no override", remedy="Write KEY=VALUE, as in trainer.epochs=5")
        found[key] = value
        with suppress(json.JSONDecodeError):
            found[key] = json.loads(value)
    return found


def _until_served_or_refused(penstock: Penstock, run: trainer.Run, *, as_json: bool) -> None:
    """Shows the run, its audit and what became of its version. Ends the command unless it is served."""
    run = _follow(penstock, run, quiet=as_json)
    if run.state != trainer.Run.STATE_COMPLETED:
        show(run, as_json=as_json)
        fail(f"run {run.run_id} {state_of(run)}: {run.failure}{'. ' + run.remedy if run.remedy else ''}")
    version, audited = _decided(penstock, run)
    promoted = version.state == registry.Version.STATE_PROMOTED
    if not as_json:
        _show_decision(version, audited)
    against = _until_served(penstock, version) if promoted else "refused by the evidence"
    served = Text(f"not served: {against}", style="yellow") if against else Text("served", style="green")
    outcome = {"run": run, "version": version, "audit": audited, "served": not against}
    show(outcome, *([served] if promoted else []), as_json=as_json)
    if against:
        raise typer.Exit(EXIT_FAILED if promoted else EXIT_REFUSED)


def _follow(penstock: Penstock, run: trainer.Run, *, quiet: bool) -> trainer.Run:
    """The run when it has ended; a bar while it trains."""
    told = quiet
    with progress(disable=quiet) as bar:
        task = bar.add_task(f"run {run.run_id}", total=None, note="")
        for run in _states(penstock, run.run_id):  # noqa: B020  the newest state is what is returned
            if run.training_set_json and not told:
                told = True
                console.print(_training_set(TrainingSet.model_validate_json(run.training_set_json)))
                if choices := chosen(run):
                    console.print(f"chosen {choices}")
            if run.epochs:
                last = run.epochs[-1]
                note = f"loss {last.train_loss:.3f}  validation {last.metric} {last.validation_metric:.3f}"
                bar.update(
                    task, description="epoch", completed=last.number, total=run.epochs_planned, note=note
                )
            else:
                bar.update(task, note=state_of(run) + _waiting(penstock))
        if run.state in ENDED:
            _end(bar, task, run)
    return run


def _end(bar: Progress, task: TaskID, run: trainer.Run) -> None:
    """Leaves the bar as the run ended: full where it completed, and why it is shorter than planned."""
    done, planned = len(run.epochs), run.epochs_planned
    if run.state != trainer.Run.STATE_COMPLETED:
        bar.update(task, total=planned or None, note=f"{state_of(run)} after {done} of {planned} epochs")
    elif 0 < done < planned:
        bar.update(task, total=done, completed=done, note=f"stopped early, after {done} of {planned} epochs")


def _states(penstock: Penstock, run_id: str) -> Iterator[trainer.Run]:
    """Yields the run at each change, and every few seconds, until it has ended. A watch that breaks
    is taken up again.
    """
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            for run in penstock.runs.watch(run_id, timeout=LOOK_S):
                yield run
                if run.state in ENDED:
                    return
        except DeadlineExceeded:
            continue
        except Unavailable:
            time.sleep(1)  # the trainer restarts; its run goes on
    raise Unavailable(
        f"run {run_id} has not ended within {WAIT_S:.0f} s", remedy="It goes on; see penstock runs"
    )


def _waiting(penstock: Penstock) -> str:
    """Words for each service that waits for something, and for what."""
    with suppress(Unavailable, DeadlineExceeded):
        services = penstock.status.services()
        waits = [f"{one.service} waits for {what.thing}" for one in services for what in one.waiting]
        return "".join(f"; {text}" for text in waits)
    return "; the platform does not answer"


def _training_set(found: TrainingSet) -> str:
    parts = ", ".join(f"{count} {part}" for part, count in found.rows.items())
    offsets = ", ".join(f"{o.topic}/{o.partition} {o.first}–{o.last}" for o in found.offsets)
    rows = f"{sum(found.rows.values())} rows ({parts})"
    return f"training set {short_digest(found.fingerprint)}: {rows}, offsets {offsets}"


def _attempts(within: float, every: float) -> Iterator[None]:
    """Yields every `every` seconds until `within` seconds are over."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        yield
        time.sleep(every)


def _decided(penstock: Penstock, run: trainer.Run) -> tuple[registry.Version, audit.Audit]:
    """The version when it is promoted or refused, and its audit."""
    waited_for = "registration"
    for _ in _attempts(WAIT_S, every=0.25):
        with suppress(NotFound, Unavailable):
            version = penstock.models.get(f"{run.pipeline}@{run.digest}")
            waited_for = "the audit"
            audited = penstock.audits.get(version.digest)
            if audited.state == audit.Audit.STATE_FAILED:
                fail(f"the audit could not be carried out: {audited.failure}. {audited.remedy}")
            decided = version.state in (registry.Version.STATE_PROMOTED, registry.Version.STATE_REFUSED)
            if decided and audited.verdict:
                return version, audited
    raise Unavailable(
        f"run {run.run_id} has ended, but {waited_for} has not come within {WAIT_S:.0f} s",
        remedy=f"It goes on: see penstock status, then penstock models {run.pipeline}",
    )


def _until_served(penstock: Penstock, version: registry.Version) -> str:
    """Nothing once this version, or one promoted after it, answers predictions; else what is
    against it, within the time.
    """
    for _ in _attempts(SERVED_WITHIN_S, every=0.1):
        with suppress(Unavailable):
            for one in penstock.predictions.serving().pipelines:
                if one.pipeline == version.pipeline and one.generation >= version.generation:
                    return ""
                if one.refused_digest == version.digest:
                    return one.refused_reason
    return f"not within {SERVED_WITHIN_S:.0f} s; see penstock status"


def _show_decision(version: registry.Version, audited: audit.Audit) -> None:
    named = version_name(version.pipeline, version.digest)
    console.print(f"version {named}  registered, signed by key {version.keyid[:8]}")
    console.print(gates(audited))
    if version.state == registry.Version.STATE_PROMOTED:
        console.print(f"promoted: generation {version.generation}", style="green")
        return
    for reason in version.because:
        console.print(f"refused: {reason}", style="red")
    console.print(f"See why: penstock report {short_digest(version.digest)} --open")
