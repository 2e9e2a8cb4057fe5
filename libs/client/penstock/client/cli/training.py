"""train, runs."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable
from typing import Annotated

import typer

from penstock.client.cli.audits import show_gates
from penstock.client.cli.output import (
    EXIT_FAILED,
    EXIT_REFUSED,
    AsJson,
    as_json,
    console,
    fail,
    platform,
    progress,
    reported,
    table,
    when,
)
from penstock.client.client import Penstock
from penstock.client.runs import ENDED
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import Invalid, NotFound, Unavailable
from penstock.contracts.events import TrainingSet
from penstock.contracts.versions import version_name
from penstock.ethics_audit.v1 import ethics_audit_pb2 as audit
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.trainer.v1 import trainer_pb2 as trainer

WAIT_S = 3600.0
SERVED_WITHIN_S = 60.0
"""A promotion is fetched, verified and probed before it answers."""


def register(app: typer.Typer) -> None:
    for command in (train, runs):
        app.command()(reported(command))


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
    with platform() as penstock:
        run = penstock.runs.create(
            pipeline,
            overrides=_overrides(override or []),
            after=penstock.events.end_offsets(pipeline),
            by=getpass.getuser(),
        )
        if not wait:
            (
                as_json(run)
                if as_json_
                else console.print(
                    f"run {run.run_id} requested. Watch it: penstock runs --pipeline {pipeline}", markup=False
                )
            )
            return
        run = _follow(penstock, run, quiet=as_json_)
        if run.state != trainer.Run.STATE_COMPLETED:
            as_json(run) if as_json_ else None
            fail(
                f"run {run.run_id} {_state(run)}: {run.failure}{'. ' + run.remedy if run.remedy else ''}",
                EXIT_FAILED,
            )
        version, audited = _decided(penstock, run)
        if not as_json_:
            _show_decision(version, audited)
        promoted = version.state == registry.Version.STATE_PROMOTED
        against = _until_served(penstock, version) if promoted else "refused by the evidence"
        if as_json_:
            as_json({"run": run, "version": version, "audit": audited, "served": not against})
        elif promoted:
            console.print(
                f"not served: {against}" if against else "served", style="yellow" if against else "green"
            )
    if against:
        raise typer.Exit(EXIT_FAILED if promoted else EXIT_REFUSED)


def runs(
    pipeline: Annotated[str, typer.Option(help="Only of this pipeline.")] = "", as_json_: AsJson = False
) -> None:
    """Training runs, newest first."""
    with platform() as penstock:
        found = penstock.runs.list(pipeline)
    if as_json_:
        as_json(found)
        return
    rows = [
        (
            r.run_id,
            r.pipeline,
            _state(r),
            f"{len(r.epochs)}/{r.epochs_planned}",
            short_digest(r.digest),
            r.failure or r.reason,
            when(r.requested_at),
        )
        for r in found
    ]
    table(
        ("run", "pipeline", "state", "epochs", "version", "why", "requested"),
        rows,
        empty="none yet: penstock train PIPELINE",
    )


def _overrides(given: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise Invalid(f"`{text}` is no override", remedy="Write KEY=VALUE, as in trainer.epochs=5")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def _state(run: trainer.Run) -> str:
    return trainer.Run.State.Name(run.state).removeprefix("STATE_").lower()


def _follow(penstock: Penstock, run: trainer.Run, *, quiet: bool) -> trainer.Run:
    """The run when it has ended; a bar while it trains. A watch that breaks is taken up again."""
    deadline = time.monotonic() + WAIT_S
    if quiet:
        return _watch(penstock, run, deadline)
    with progress() as bar:
        task = bar.add_task(f"run {run.run_id}", total=None, note="")
        told = False

        def show(seen: trainer.Run) -> None:
            nonlocal told
            if seen.training_set_json and not told:
                told = True
                bar.console.print(_snapshot(TrainingSet.model_validate_json(seen.training_set_json)))
            if seen.epochs:
                last = seen.epochs[-1]
                note = f"loss {last.train_loss:.3f}  validation {last.metric} {last.validation_metric:.3f}"
                bar.update(
                    task, description="epoch", completed=last.number, total=seen.epochs_planned, note=note
                )
            else:
                bar.update(task, note=_state(seen))

        return _watch(penstock, run, deadline, show)


def _watch(
    penstock: Penstock,
    run: trainer.Run,
    deadline: float,
    show: Callable[[trainer.Run], None] = lambda _: None,
) -> trainer.Run:
    while time.monotonic() < deadline:
        try:
            for run in penstock.runs.watch(run.run_id, timeout=deadline - time.monotonic()):  # noqa: B020  the newest state is what is returned
                show(run)
            if run.state in ENDED:
                return run
        except Unavailable:
            time.sleep(1)  # the trainer restarts; its run goes on
    raise Unavailable(
        f"run {run.run_id} has not ended within {WAIT_S:.0f} s", remedy="It goes on; see penstock runs"
    )


def _snapshot(found: TrainingSet) -> str:
    parts = ", ".join(f"{count} {part}" for part, count in found.rows.items())
    offsets = ", ".join(f"{o.topic}/{o.partition} {o.first}–{o.last}" for o in found.offsets)
    return (
        f"training set {short_digest(found.fingerprint)}: {sum(found.rows.values())} rows ({parts}), offsets"
        f" {offsets}"
    )


def _decided(penstock: Penstock, run: trainer.Run) -> tuple[registry.Version, audit.Audit]:
    """The version when it is promoted or refused, and its audit."""
    deadline = time.monotonic() + WAIT_S
    waited_for = "registration"
    while time.monotonic() < deadline:
        try:
            version = penstock.models.get(f"{run.pipeline}@{run.digest}")
            waited_for = "the audit"
            audited = penstock.audits.get(version.digest)
            if audited.state == audit.Audit.STATE_FAILED:
                fail(f"the audit could not be carried out: {audited.failure}. {audited.remedy}")
            if (
                version.state in (registry.Version.STATE_PROMOTED, registry.Version.STATE_REFUSED)
                and audited.verdict
            ):
                return version, audited
        except (NotFound, Unavailable):
            pass
        time.sleep(0.25)
    raise Unavailable(f"still waiting for {waited_for}", remedy="See penstock status")


def _until_served(penstock: Penstock, version: registry.Version) -> str:
    """Nothing once this version, or one promoted after it, answers predictions; else what is
    against it, within the time.
    """
    deadline = time.monotonic() + SERVED_WITHIN_S
    while time.monotonic() < deadline:
        try:
            for one in penstock.predictions.serving().pipelines:
                if one.pipeline == version.pipeline and one.generation >= version.generation:
                    return ""
                if one.refused_digest == version.digest:
                    return one.refused_reason
        except Unavailable:
            pass
        time.sleep(0.1)
    return f"not within {SERVED_WITHIN_S:.0f} s; see penstock status"


def _show_decision(version: registry.Version, audited: audit.Audit) -> None:
    console.print(
        f"version {version_name(version.pipeline, version.digest)}  registered,"
        f" signed by key {version.keyid[:8]}"
    )
    show_gates(audited)
    if version.state == registry.Version.STATE_PROMOTED:
        console.print(f"promoted: generation {version.generation}", style="green")
        return
    for reason in version.because:
        console.print(f"refused: {reason}", style="red")
    console.print(f"See why: penstock report {short_digest(version.digest)} --open")
