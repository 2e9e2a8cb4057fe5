"""train, runs."""

from __future__ import annotations

import getpass
import json
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from penstock.client.cli.costs import FIGURES, NO_FIGURES, figures
from penstock.client.cli.following import chosen, until_served_or_refused
from penstock.client.cli.output import (
    AsJson,
    fail,
    show,
    state_of,
    table,
)
from penstock.client.cli.watching import pace, watched
from penstock.client.client import Penstock
from penstock.client.outcomes import waiting
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import DeadlineExceeded, Invalid, NotFound, Unavailable
from penstock.trainer.v1 import trainer_pb2 as trainer
from penstock.tuner.v1 import tuner_pb2 as tuner

PACES = 3  # newest runs whose pace is told


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
        refuse_nothing(penstock, pipeline)
        run = penstock.runs.create(
            pipeline,
            overrides=_overrides(override or []),
            after=penstock.events.end_offsets(pipeline),
            by=getpass.getuser(),
        )
        if wait:
            until_served_or_refused(penstock, run, as_json=as_json_)
        else:
            watch_it = f"Watch it: penstock runs {pipeline} --watch"
            show(run, f"run {run.run_id} requested. {watch_it}", as_json=as_json_)


def cancel(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of a run or a study that is under way.")],
    as_json_: AsJson = False,
) -> None:
    """End a training run or a tuning study where it is.

    What a study has tried is kept. A run that has ended already has its version: `penstock models`.
    """
    with Penstock() as penstock:
        found = _canceled(penstock, identity, getpass.getuser())
    show(found, f"{identity} is canceled", as_json=as_json_)


def _canceled(penstock: Penstock, identity: str, by: str) -> trainer.Run | tuner.Study:
    with suppress(NotFound):
        return penstock.runs.cancel(identity, by=by)
    with suppress(NotFound):
        return penstock.studies.cancel(identity, by=by)
    raise NotFound(
        f"neither a run nor a study is `{identity}`", remedy="See penstock runs, penstock study list"
    )


def refuse_nothing(penstock: Penstock, pipeline: str) -> None:
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
            until_served_or_refused(penstock, run, as_json=as_json_)
        else:
            watch_it = f"Watch it: penstock runs {pipeline} --watch"
            show(run, f"run {run.run_id} imports {model.name}. {watch_it}", as_json=as_json_)


def runs(
    pipeline: Annotated[str, typer.Argument(help="Only of this pipeline.")] = "",
    option: Annotated[str, typer.Option("--pipeline", help="As the argument.", hidden=True)] = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="The newest, a line an epoch, until it ends.")
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Training runs, newest first."""
    with Penstock() as penstock:
        found = penstock.runs.list(pipeline or option)
        if watch and found:
            watched(penstock, found[0], as_json=as_json_)
            return
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
    notes += [f"{run.run_id}: {said}" for run in found if (said := pace(run.pace))][:PACES]
    listed = table(columns, rows, empty="none yet: penstock train PIPELINE")
    show(found, listed, *notes, as_json=as_json_)


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
