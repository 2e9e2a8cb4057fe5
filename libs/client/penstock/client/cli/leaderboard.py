"""A study as a person sees it: how far it is, its trials, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from operator import le

from rich.console import RenderableType

from penstock.client.cli.output import state_of, table
from penstock.client.studies import ENDED
from penstock.tuner.v1 import tuner_pb2 as tuner

IMPORTANT = 5  # parameters that are named


def head(found: tuner.Study, *, since: float = 0.0) -> str:
    """`study 01J… of loans, searching: 7 of 20 trials, 1 failed, 2 run, 3:41 left`. `since`: seconds
    since the study last said how long it took.
    """
    return f"study {found.study_id} of {found.pipeline}, {state_of(found)}: {progress(found, since=since)}"


def progress(found: tuner.Study, *, since: float = 0.0) -> str:
    """`7 of 20 trials, 1 failed, 2 run, 3:41 left`."""
    states = [trial.state for trial in found.trials]
    running = states.count(tuner.Trial.STATE_RUNNING)
    ended = len(states) - running
    parts = [f"{ended} of {found.trials_planned} trials" if found.trials_planned else f"{ended} trials"]
    if failed := states.count(tuner.Trial.STATE_FAILED):
        parts.append(f"{failed} failed")
    if pruned := states.count(tuner.Trial.STATE_PRUNED):
        parts.append(f"{pruned} stopped early")
    if running:
        parts.append(f"{running} run")
    if found.time_planned_s and found.state not in ENDED:
        left = max(found.time_planned_s - found.time_spent_s - since, 0)
        parts.append(f"{timedelta(seconds=round(left))} left")
    return ", ".join(parts)


def leaderboard(found: tuner.Study, *, short: bool = False) -> RenderableType:
    """Trials by their first objective, the best trial first; `short`: the best so far, the file's own
    values and what runs.
    """
    listed = ranked(found)
    if short:
        listed = [
            trial for trial in listed if name_of(found, trial) or trial.state == tuner.Trial.STATE_RUNNING
        ]
    rows = [
        (
            trial.number,
            name_of(found, trial) or state_of(trial),
            *(trial.values or [None] * len(found.objectives)),
            trial.metrics.get("train_loss"),
            trial.metrics.get("validation_loss"),
            trial.family,
            trial.epochs or None,
            f"{trial.seconds:.1f}" if trial.ended_at.seconds else None,
            trial.failure or values_of(trial),
        )
        for trial in listed
    ]
    columns = ("trial", "", *found.objectives, "train", "validation", "family", "epochs", "seconds", "values")
    return table(columns, rows, empty="no trial has begun")


def ranked(found: tuner.Study) -> list[tuner.Trial]:
    """Trials by their first objective, the best trial first."""
    return sorted(found.trials, key=lambda trial: _rank(found, trial))


def _rank(found: tuner.Study, trial: tuner.Trial) -> tuple[object, ...]:
    best = found.HasField("best") and trial.number == found.best
    return (not best, not trial.values, *trial.values[:1], trial.number)


def name_of(found: tuner.Study, trial: tuner.Trial) -> str:
    names = []
    if found.HasField("best") and trial.number == found.best:
        names.append("best so far" if found.state not in ENDED else "best")
    if trial.number == 0:
        names.append("my own values")
    if len(found.objectives) > 1 and undominated(found, trial):
        names.append("front")
    return ", ".join(names)


def undominated(found: tuner.Study, trial: tuner.Trial) -> bool:
    """Tells whether no other trial is as good in all objectives and better in one."""
    mine = list(trial.values)
    return bool(mine) and not any(
        list(other.values) != mine and all(map(le, other.values, mine))
        for other in found.trials
        if other.values
    )


def values_of(trial: tuner.Trial) -> str:
    """`dropout 0.1  hidden [64]`: what was chosen for it; nothing of the file's own values."""
    choices = json.loads(trial.choices_json or "{}")
    return "  ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in choices.items())


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def sentences(found: tuner.Study) -> Iterator[str]:
    """Sentences on what came of it."""
    if found.state == tuner.Study.STATE_COMPLETED:
        yield found.conclusion
        if found.importance:
            shares = sorted(found.importance.items(), key=lambda one: -one[1])[:IMPORTANT]
            yield f"what mattered: {', '.join(f'{name} {share:.0%}' for name, share in shares)}"
        if found.run_id:
            yield (
                f"run {found.run_id} trains with the values of trial {found.best}."
                " Later runs have the file's: --write FILE puts these in"
            )
    elif found.state == tuner.Study.STATE_CANCELED:
        kept = sum(trial.state != tuner.Trial.STATE_RUNNING for trial in found.trials)
        yield (
            f"canceled; {kept} trials are kept: penstock study show {found.study_id}."
            f" Go on with them: penstock study extend {found.study_id} --trials 10"
        )


def why(found: tuner.Study) -> str:
    return f"{found.failure}{'. ' + found.remedy if found.remedy else ''}"
