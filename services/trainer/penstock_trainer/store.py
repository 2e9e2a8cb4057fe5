"""The trainer's tables and the queries over them: runs and their epochs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import Float, Integer, String, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.errors import NotFound
from penstock.contracts.events import Cost, Imported, StudyReference, TrainingSet
from penstock.runtime.tables import Json, UtcDateTime
from penstock_trainer.pace import Pace

REQUESTED, PREPARING, TRAINING, PACKAGING = "requested", "preparing", "training", "packaging"
COMPLETED, FAILED, CANCELED = "completed", "failed", "canceled"
ENDED = frozenset({COMPLETED, FAILED, CANCELED})


class Tables(DeclarativeBase):
    pass


class RunRow(Tables):
    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    pipeline_number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(16))
    requested_by: Mapped[str] = mapped_column(String(256))
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    epochs_planned: Mapped[int] = mapped_column(Integer, default=0)
    training_set: Mapped[TrainingSet | None] = mapped_column(Json(TrainingSet), default=None)
    digest: Mapped[str | None] = mapped_column(String(80), default=None)
    metrics: Mapped[dict[str, float]] = mapped_column(Json(dict[str, float]), default=dict)
    failure: Mapped[str | None] = mapped_column(Text, default=None)
    remedy: Mapped[str | None] = mapped_column(Text, default=None)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    cost: Mapped[Cost | None] = mapped_column(Json(Cost), default=None)
    imported: Mapped[Imported | None] = mapped_column(Json(Imported), default=None)
    study: Mapped[StudyReference | None] = mapped_column(Json(StudyReference), default=None)
    chosen: Mapped[dict[str, JsonValue] | None] = mapped_column(Json(dict[str, JsonValue]), default=None)
    chosen_because: Mapped[str | None] = mapped_column(Text, default=None)
    pace: Mapped[Pace | None] = mapped_column(Json(Pace), default=None)


# What an epoch tells beside its run.
CURVE = (
    "number",
    "train_loss",
    "validation_loss",
    "validation_metric",
    "metric",
    "learning_rate",
    "elapsed_s",
)


class EpochRow(Tables):
    __tablename__ = "epochs"

    run_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    train_loss: Mapped[float] = mapped_column(Float)
    validation_loss: Mapped[float] = mapped_column(Float)
    validation_metric: Mapped[float] = mapped_column(Float)
    metric: Mapped[str] = mapped_column(String(32))
    learning_rate: Mapped[float] = mapped_column(Float)
    elapsed_s: Mapped[float] = mapped_column(Float)
    pace: Mapped[Pace | None] = mapped_column(Json(Pace), default=None)


class KeyRow(Tables):
    """A caller's idempotency key, and the run it stands for."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(256), primary_key=True)
    run_id: Mapped[str] = mapped_column(String(32))


def run(session: Session, run_id: str) -> RunRow:
    """Raises NotFound."""
    found = session.get(RunRow, run_id)
    if found is None:
        raise NotFound(f"no run `{run_id}`", remedy="List runs with `penstock runs`")
    return found


def epochs(session: Session, run_id: str) -> list[EpochRow]:
    """Returns the run's epochs in order."""
    return list(session.scalars(select(EpochRow).where(EpochRow.run_id == run_id).order_by(EpochRow.number)))


def newest(session: Session, pipeline: str, limit: int) -> list[str]:
    """Ids of runs, newest first; of all pipelines where `pipeline` is empty."""
    query = select(RunRow.run_id).order_by(RunRow.run_id.desc()).limit(limit)
    return list(session.scalars(query.where(RunRow.pipeline == pipeline) if pipeline else query))


def costs(session: Session) -> Iterator[tuple[str, datetime, Cost]]:
    """Pipeline, end and cost of each run that ended."""
    ended = select(RunRow.pipeline, RunRow.ended_at, RunRow.cost).where(RunRow.ended_at.is_not(None))
    for pipeline, ended_at, cost in session.execute(ended):
        if ended_at is not None and cost is not None:  # not of a release before
            yield pipeline, ended_at, cost


def counts(session: Session) -> dict[str, int]:
    """Runs by state."""
    return dict(session.execute(select(RunRow.state, func.count()).group_by(RunRow.state)).all())


def memory_of_gpus(session: Session) -> dict[str, int]:
    """Bytes of a GPU by pipeline, the most of its runs in training; of none that trains on a core."""
    found: dict[str, int] = {}
    for pipeline, pace in session.execute(
        select(RunRow.pipeline, RunRow.pace).where(RunRow.state == TRAINING)
    ):
        if pace is not None and pace.gpu_bytes:
            found[pipeline] = max(found.get(pipeline, 0), pace.gpu_bytes)
    return found
