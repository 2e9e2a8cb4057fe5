"""Tells MLflow's own store what a run was, once it has ended, and writes a file for TensorBoard.
`mlflow ui` on that store shows it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.store.tracking import sqlalchemy_store  # noqa: F401  each job would load it, for half a second
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from penstock.contracts.errors import Unavailable
from penstock.runtime.artifacts import divided
from penstock.runtime.child import JobContext
from penstock_trainer.settings import Settings
from penstock_trainer.tensorboard import Session, write

SOURCE = {"mlflow.source.name": "penstock", "mlflow.source.type": "JOB"}
BATCH = 1000  # MLflow's own limit of metrics in a call
# A run's losses beside its curve's, which MLflow knows by the names of each epoch's.
PLAIN = {name: f"plain_{name}" for name in ("train_loss", "validation_loss")}


def run(job: JobContext) -> dict[str, Any]:
    told = job.payload
    write(job.settings.tensorboard_dir / told["pipeline"] / told["run_id"], _session(told))
    return {"mlflow_run": tell(job.payload, job.settings)}


def tell(told: Mapping[str, Any], settings: Settings) -> str:
    """Writes one run into the store that the settings name; MLflow's id. Raises Unavailable where
    the store does not take it now.
    """
    with opened(settings) as client:
        return track(client, told, settings)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[MlflowClient]:
    """The store that the settings name. Raises Unavailable where it does not take something now."""
    if settings.tracking_password:
        # libpq reads it; MLflow repeats its URI in messages, so it holds none.
        os.environ["PGPASSWORD"] = settings.tracking_password
    try:
        yield MlflowClient(tracking_uri=settings.tracking_uri)
    except SQLAlchemyError as error:  # away; or another replica makes the tables at this moment
        raise Unavailable(
            f"MLflow's store cannot be opened: {_first_line(error)}", where=settings.tracking_uri
        ) from error
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(TEMPORARILY_UNAVAILABLE):
            raise
        raise Unavailable(
            f"MLflow's store does not answer: {_first_line(error)}", where=settings.tracking_uri
        ) from error


def track(client: MlflowClient, told: Mapping[str, Any], settings: Settings) -> str:
    """Writes one run: parameters, a metric per epoch, the final metrics, tags. Returns MLflow's id;
    the same run again changes nothing.
    """
    experiment = experiment_of(client, told["pipeline"], settings)
    finished = f"tags.`penstock.run` = '{told['run_id']}' and attributes.status = 'FINISHED'"
    if known := client.search_runs([experiment], finished, max_results=1):
        return str(known[0].info.run_id)
    created = client.create_run(
        experiment, start_time=_ms(told["started_at"]), run_name=told["run_id"], tags=told["tags"]
    )
    identity: str = created.info.run_id
    metrics = [
        *_curves(told),
        *(
            Metric(PLAIN.get(name, name), value, _ms(told["ended_at"]), 0)
            for name, value in told["metrics"].items()
        ),
    ]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(identity, metrics=metrics[start : start + BATCH])
    client.log_batch(
        identity,
        params=[Param(name, value) for name, value in told["parameters"].items()],
        tags=[RunTag(name, value) for name, value in SOURCE.items()],
    )
    client.set_terminated(identity, end_time=_ms(told["ended_at"]))
    return identity


def experiment_of(client: MlflowClient, name: str, settings: Settings) -> str:
    """Returns the experiment's id; makes it for the pipeline's first run. Two replicas may try at
    once: the second finds the first's.
    """
    location = f"{divided(settings.platform.artifact_roots)[0]}/mlflow/{name}"
    with contextlib.suppress(MlflowException):
        return str(client.create_experiment(name, artifact_location=location))
    found = client.get_experiment_by_name(name)
    if found is None:
        raise Unavailable(f"MLflow has no experiment `{name}` and makes none", where=settings.tracking_uri)
    return str(found.experiment_id)


def _session(told: Mapping[str, Any]) -> Session:
    """The run for TensorBoard."""
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for name, step, moment, value in _points(told):
        curves.setdefault(name, []).append((step, moment, value))
    outcome = {PLAIN.get(name, name): value for name, value in told["metrics"].items()}
    return Session(told["started_at"], told["ended_at"], told["parameters"], outcome, curves)


def _curves(told: Mapping[str, Any]) -> Iterator[Metric]:
    for name, step, moment, value in _points(told):
        yield Metric(name, value, _ms(moment), step)


def _points(told: Mapping[str, Any]) -> Iterator[tuple[str, int, float, float]]:
    """Points of each epoch: its curves' names with its number, its moment in seconds and the value."""
    for epoch in told["epochs"]:
        values = {name: epoch[name] for name in ("train_loss", "validation_loss")}
        values[f"validation_{epoch['metric']}"] = epoch["validation_metric"]
        values |= {
            f"pace/{name}": value for name, value in epoch.get("pace", {}).items()
        }  # of a release before: none
        for name, value in values.items():
            yield name, epoch["number"], told["started_at"] + epoch["elapsed_s"], value


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
