"""Pace of training runs in words, and a run as it goes: a line an epoch."""

from __future__ import annotations

from penstock.client.cli.following import goes_on, unless_completed, until_ended, waiting_for
from penstock.client.cli.output import console, interrupted, show, state_of
from penstock.client.client import Penstock
from penstock.client.runs import ENDED
from penstock.contracts.digests import short_digest
from penstock.trainer.v1 import trainer_pb2 as trainer


def watched(penstock: Penstock, run: trainer.Run, *, as_json: bool) -> None:
    """Prints the run's epochs as they come; a program is given the run when it has ended. Ends the
    command unless it completed.
    """
    told, state, run_id = 0, None, run.run_id
    with interrupted(goes_on(run)):
        for run in until_ended(penstock.runs.watch, run_id, ENDED):
            if as_json:
                continue
            if run.state != state and run.state not in ENDED:
                state = run.state
                waits = "" if run.epochs else waiting_for(penstock)
                console.print(f"run {run.run_id} of {run.pipeline}: {state_of(run)}{waits}")
            for epoch in run.epochs[told:]:
                console.print(epoch_line(epoch, run.epochs_planned))
            told = len(run.epochs)
    said = f"completed: version {short_digest(run.digest)}; {pace(run.pace)}".removesuffix("; ")
    unless_completed(run, as_json=as_json)
    show(run, said, as_json=as_json)


def epoch_line(epoch: trainer.Epoch, planned: int) -> str:
    """`epoch 3/12  loss 0.412, validation 0.398, auroc 0.881  41,000 rows/s, …`."""
    losses = f"loss {epoch.train_loss:.3f}, validation {epoch.validation_loss:.3f}"
    figures = f"{losses}, {epoch.metric} {epoch.validation_metric:.3f}"
    return f"epoch {epoch.number}/{planned}  {figures}  {speed(epoch.pace)}".rstrip()


def pace(of: trainer.Pace) -> str:
    """`2 workers, 41,000 rows/s, 2.30 ms a step, waits for the other workers 38% of the time`; "" where
    none is known.
    """
    if not of.rows_per_s:
        return ""
    workers = "1 worker" if of.workers == 1 else f"{of.workers} workers"
    because = f" ({of.because})" if of.because else ""
    return f"{workers}{because}, {speed(of)}"


def speed(of: trainer.Pace) -> str:
    """`pace` without the workers."""
    if not of.rows_per_s:
        return ""
    step = of.step_s * 1e3
    said = [f"{step:,.{2 if step < 10 else 0}f} ms a step"] if step else []  # not of a release before
    if of.gpu_bytes:
        said.append(f"GPU at work {of.gpu_share:.0%}, {of.gpu_bytes / 1e9:.1f} GB")
    return ", ".join([f"{of.rows_per_s:,.0f} rows/s", *said, of.bottleneck])
