"""Follows a run until its version is refused, or promoted and served."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from typing import TypeVar

import typer
from rich.progress import Progress, TaskID
from rich.text import Text

from penstock.client.cli.audits import gates, notes
from penstock.client.cli.output import (
    EXIT_FAILED,
    EXIT_REFUSED,
    console,
    errors,
    fail,
    interrupted,
    progress,
    show,
    state_of,
)
from penstock.client.client import Penstock
from penstock.client.runs import ENDED
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import DeadlineExceeded, NotFound, Unavailable
from penstock.contracts.events import TrainingSet
from penstock.contracts.verdicts import WAITS
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.tuner.v1 import tuner_pb2 as tuner

Watched = TypeVar("Watched", trainer.Run, tuner.Study)

WAIT_S = 3600.0
LOOK_S = 5.0  # between two looks at a run of which nothing new comes
# A promotion is fetched, verified and probed before it answers.
SERVED_WITHIN_S = 60.0


def until_served_or_refused(
    penstock: Penstock, run: trainer.Run, *, as_json: bool, study: tuner.Study | None = None
) -> None:
    """Shows the run, its audit and what became of its version; a program is given the run's study, too.
    Ends the command unless it is served.
    """
    with interrupted(goes_on(run)):
        run = _followed(penstock, run, quiet=as_json)
        unless_completed(run, as_json=as_json)
        version, audited = _decided(penstock, run)
        promoted = version.state == registry.Version.STATE_PROMOTED
        if not as_json:
            _show_decision(version, audited)
        against = _until_served(penstock, version) if promoted else "refused by the evidence"
    served = Text(f"not served: {against}", style="yellow") if against else Text("served", style="green")
    outcome = {"run": run, "version": version, "audit": audited, "served": not against}
    outcome |= {"study": study} if study else {}
    show(outcome, *([served] if promoted else []), as_json=as_json)
    if against:
        raise typer.Exit(EXIT_FAILED if promoted else EXIT_REFUSED)


def goes_on(run: trainer.Run) -> str:
    """Sentence on a run that nobody waits for any more."""
    return (
        f"no longer waiting: run {run.run_id} goes on, and its version is served if the evidence allows it."
        f" See it: penstock runs {run.pipeline} --watch. End it: penstock cancel {run.run_id}"
    )


def until_promoted_and_served(penstock: Penstock, approved: str, *, quiet: bool) -> None:
    """Shows what becomes of a version that a person has approved. Ends the command where it is refused
    all the same; a promotion that takes longer than SERVED_WITHIN_S goes on.
    """
    with interrupted("no longer waiting: the decision stands. See: penstock models, then penstock status"):
        version = _promoted(penstock, approved)
        if version is None:
            against = "its promotion is under way; see penstock models, then penstock status"
        elif version.state == registry.Version.STATE_REFUSED:
            fail(f"refused: {'; '.join(version.because)}", EXIT_REFUSED)
        else:
            if not quiet:
                _show_promotion(version)
            against = _until_served(penstock, version)
    if against:
        fail(f"not served: {against}")
    if not quiet:
        console.print("served", style="green")


def _promoted(penstock: Penstock, approved: str) -> registry.Version | None:
    """The version once the registry has heeded the approval: promoted, or refused for another reason."""
    for _ in attempts(SERVED_WITHIN_S, every=0.1):
        with suppress(Unavailable, DeadlineExceeded):
            version = penstock.models.get(approved)
            refused = version.state == registry.Version.STATE_REFUSED and WAITS not in version.because
            if refused or version.state == registry.Version.STATE_PROMOTED:
                return version
    return None


def unless_completed(run: trainer.Run, *, as_json: bool) -> None:
    """Ends the command with the sentence of a run that failed or was canceled."""
    if run.state != trainer.Run.STATE_COMPLETED:
        show(run, as_json=as_json)
        fail(f"run {run.run_id} {state_of(run)}: {run.failure}{'. ' + run.remedy if run.remedy else ''}")


def _followed(penstock: Penstock, run: trainer.Run, *, quiet: bool) -> trainer.Run:
    """The run when it has ended; a bar while it trains."""
    told = quiet
    with progress(disable=quiet) as bar:
        task = bar.add_task(f"run {run.run_id}", total=None, note="")
        states = until_ended(penstock.runs.watch, run.run_id, ENDED, WAIT_S)
        for run in states:
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
                bar.update(task, note=state_of(run) + waiting_for(penstock))
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


def until_ended(
    watch: Callable[..., Iterator[Watched]], row_id: str, ended: Container[int], within_s: float = math.inf
) -> Iterator[Watched]:
    """Yields a run or a study at each change, and every few seconds, until it has ended. A watch that
    breaks is taken up again, and so it is said, once. Raises Unavailable where it has not ended in time.
    """
    deadline, heard = time.monotonic() + within_s, True
    while time.monotonic() < deadline:
        seen = False
        try:
            for row in watch(row_id, timeout=LOOK_S):
                seen = heard = True
                yield row
                if row.state in ended:
                    return
        except (DeadlineExceeded, Unavailable) as error:
            if heard and not seen:  # a watch begins with the run as it is
                heard = False
                errors.print(
                    f"{error.message}; waits for it, {row_id} goes on once it is back", style="yellow"
                )
            if isinstance(error, Unavailable):
                time.sleep(1)  # the service restarts; its work goes on
    raise Unavailable(
        f"run {row_id} has not ended within {within_s:.0f} s", remedy="It goes on; see penstock runs"
    )


def waiting_for(penstock: Penstock) -> str:
    """Words for each service that waits for something, and for what."""
    with suppress(Unavailable, DeadlineExceeded):
        services = penstock.status.services()
        waits = [f"{one.service} waits for {what.thing}" for one in services for what in one.waiting]
        return "".join(f"; {text}" for text in waits)
    return "; the platform does not answer"


def _training_set(found: TrainingSet) -> str:
    parts = ", ".join(f"{count} {part}" for part, count in found.rows.items())
    offsets = ", ".join(f"{o.topic}/{o.partition} {o.first} to {o.last - 1}" for o in found.offsets)
    rows = f"{sum(found.rows.values())} rows ({parts})"
    return f"training set {short_digest(found.fingerprint)}: {rows}, offsets {offsets}"


def attempts(within: float, every: float) -> Iterator[None]:
    """Yields every `every` seconds until `within` seconds are over."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        yield
        time.sleep(every)


def _decided(penstock: Penstock, run: trainer.Run) -> tuple[registry.Version, audit.Audit]:
    """The version when it is promoted or refused, and its audit."""
    waited_for = "registration"
    for _ in attempts(WAIT_S, every=0.25):
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
    for _ in attempts(SERVED_WITHIN_S, every=0.1):
        with suppress(Unavailable):
            for one in penstock.predictions.serving().pipelines:
                if one.pipeline == version.pipeline and one.generation >= version.generation:
                    return ""
                if one.pipeline == version.pipeline and one.stopped:
                    return f"{one.pipeline} is stopped: {one.stopped}"
                if one.refused_digest == version.digest:
                    return one.refused_reason
    return f"not within {SERVED_WITHIN_S:.0f} s; see penstock status"


def _show_decision(version: registry.Version, audited: audit.Audit) -> None:
    named = version_name(version.pipeline, version.digest)
    console.print(f"version {named}  registered, signed by key {version.keyid[:8]}")
    console.print(gates(audited), *notes(audited), sep="\n")
    if version.state == registry.Version.STATE_PROMOTED:
        _show_promotion(version)
        return
    waits = WAITS in version.because
    for reason in version.because:
        if reason != WAITS:
            console.print(f"not passed: {reason}" if waits else f"refused: {reason}", style="red")
    digest = short_digest(version.digest)
    if waits:
        console.print(f"{WAITS}: a person may waive what did not pass", style="yellow")
    console.print(f"See why: penstock report {digest} --open")
    if waits:
        console.print(f"Then decide: penstock review approve {digest} --why REASON, or review reject")


def _show_promotion(version: registry.Version) -> None:
    console.print(f"promoted: generation {version.generation}", style="green")
    for compared in version.because:
        console.print(compared)


def chosen(run: trainer.Run) -> str:
    """Choices that were made for the training rows, in words: `model.type boosted_trees, trainer.epochs
    60, as the file names no family, and there are 2,000 rows to train on`.
    """
    choices = [f"{key} {value}" for key, value in json.loads(run.chosen_json or "{}").items()]
    return ", ".join(choices + ([f"as {run.chosen_because}"] if run.chosen_because else []))
