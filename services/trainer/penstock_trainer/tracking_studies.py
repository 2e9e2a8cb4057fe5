"""Tells MLflow what a tuning study was, once it has ended: a run for the study, and below it one for
each trial; and writes each trial's file for TensorBoard. The tuner is asked for them, and this
service alone writes MLflow's store.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from pydantic import JsonValue

from penstock.runtime.child import JobContext
from penstock.runtime.patience import patiently
from penstock.tuner.v1 import tuner_pb2, tuner_pb2_grpc
from penstock_trainer.settings import Settings
from penstock_trainer.tensorboard import Session, write
from penstock_trainer.tracking import SOURCE, experiment_of, opened

TIMEOUT_S = 10.0
LONGEST, MOST = 500, 10_000  # characters of a parameter, which MLflow takes; runs that it gives at once
PARENT, WHOLE, TRIAL = "mlflow.parentRunId", "penstock.whole_study", "penstock.trial"
STATES = {
    tuner_pb2.Trial.STATE_COMPLETE: "FINISHED",
    tuner_pb2.Trial.STATE_FAILED: "FAILED",
    tuner_pb2.Trial.STATE_PRUNED: "KILLED",
}


def run(job: JobContext) -> dict[str, Any]:
    study = asyncio.run(_study(job, job.payload["study_id"]))
    folder = job.settings.tensorboard_dir / study.pipeline / study.study_id
    for trial in study.trials:
        if trial.state in STATES:
            write(folder / f"trial-{trial.number:04}", session_of(trial))
    with opened(job.settings) as client:
        return {"mlflow_run": track_study(client, study, job.settings)}


async def _study(job: JobContext, study_id: str) -> tuner_pb2.Study:
    return await patiently(
        job,
        "tuner",
        lambda channel: tuner_pb2_grpc.TunerServiceStub(channel).GetStudy,
        tuner_pb2.GetStudyRequest(study_id=study_id),
        TIMEOUT_S,
    )


def session_of(trial: tuner_pb2.Trial) -> Session:
    """The trial for TensorBoard."""
    return Session(
        trial.started_at.ToMilliseconds() / 1000,
        trial.ended_at.ToMilliseconds() / 1000,
        _values(trial),
        _outcome(trial),
        failed=trial.state != tuner_pb2.Trial.STATE_COMPLETE,
    )


def _values(trial: tuner_pb2.Trial) -> dict[str, JsonValue]:
    chosen: dict[str, JsonValue] = json.loads(trial.choices_json or "{}")
    return {"family": trial.family, **chosen}


def _outcome(trial: tuner_pb2.Trial) -> dict[str, float]:
    objectives = {f"objective_{place}": value for place, value in enumerate(trial.values)}
    return {**trial.metrics, **objectives, "seconds": trial.seconds, "epochs": trial.epochs}


def track_study(client: MlflowClient, study: tuner_pb2.Study, settings: Settings) -> str:
    """Writes a study and its trials, of one that was extended those that are new; MLflow's id of the
    study's run. The same study again adds nothing.
    """
    experiment = experiment_of(client, study.pipeline, settings)
    tags = {"penstock.study": study.study_id, **SOURCE}
    known = client.search_runs([experiment], f"tags.`{WHOLE}` = '{study.study_id}'", max_results=1)
    begun = study.requested_at.ToMilliseconds()
    run = (
        known[0]
        if known
        else client.create_run(
            experiment, begun, {**tags, WHOLE: study.study_id}, run_name=f"study {study.study_id}"
        )
    )
    parent: str = run.info.run_id
    told = client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", max_results=MOST)
    numbers = {one.data.tags[TRIAL] for one in told if one.info.status in STATES.values()}
    for trial in study.trials:
        if trial.state in STATES and str(trial.number) not in numbers:
            _track_trial(client, experiment, study, trial, {**tags, PARENT: parent})
    ended = study.ended_at.ToMilliseconds()
    _log(client, parent, ended, _figures(study), {})
    for name, value in (
        ("mlflow.note.content", study.conclusion or study.failure),
        ("penstock.rule", study.rule),
        ("penstock.run", study.run_id),
    ):
        client.set_tag(parent, name, value)
    status = "FAILED" if study.failure else "FINISHED" if study.conclusion else "KILLED"
    client.set_terminated(parent, status, ended)
    return parent


def _figures(study: tuner_pb2.Study) -> dict[str, float]:
    """Numbers of the study; objectives of the trial that was chosen, beside those of the file's own."""
    of = {trial.number: trial.values for trial in study.trials if trial.values}
    sides = (("chosen", of.get(study.best, ())), ("own", of.get(0, ())))
    values = {
        f"{side}_objective_{place}": value for side, found in sides for place, value in enumerate(found)
    }
    return {"trials": study.trials_ended, "looks": study.looks, "best_trial": study.best, **values}


def _track_trial(
    client: MlflowClient,
    experiment: str,
    study: tuner_pb2.Study,
    trial: tuner_pb2.Trial,
    tags: Mapping[str, str],
) -> None:
    begun, ended = trial.started_at.ToMilliseconds(), trial.ended_at.ToMilliseconds()
    own = {TRIAL: str(trial.number), "penstock.failure": trial.failure}
    run = client.create_run(experiment, begun, {**tags, **own}, run_name=f"trial {trial.number}")
    _log(client, run.info.run_id, ended, _outcome(trial), _values(trial))
    client.set_terminated(run.info.run_id, STATES[trial.state], ended)


def _log(
    client: MlflowClient, run_id: str, at: int, metrics: Mapping[str, float], said: Mapping[str, JsonValue]
) -> None:
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, at, 0) for name, value in metrics.items()],
        params=[Param(name, value[:LONGEST]) for name, value in values.items() if value],
    )
