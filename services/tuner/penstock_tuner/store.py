"""The tuner's tables and the queries over them: studies and their trials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import BigInteger, Float, Integer, String, Text, delete, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.errors import NotFound
from penstock.contracts.events import Cost, TrainingSet, TuningStudyRequested
from penstock.runtime.tables import Json, UtcDateTime

REQUESTED, PREPARING, SEARCHING = "requested", "preparing", "searching"
COMPLETED, FAILED, CANCELED = "completed", "failed", "canceled"
RUNNING = "running"  # of a trial
ENDED = frozenset({COMPLETED, FAILED, CANCELED})


class Tables(DeclarativeBase):
    pass


class StudyRow(Tables):
    __tablename__ = "studies"

    study_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    pipeline_number: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    requested: Mapped[TuningStudyRequested] = mapped_column(Json(TuningStudyRequested))
    """The wish, its budget extended where the study was."""
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    extensions: Mapped[int] = mapped_column(Integer, default=0)
    training_set: Mapped[TrainingSet | None] = mapped_column(Json(TrainingSet), default=None)
    best: Mapped[int | None] = mapped_column(Integer, default=None)
    run_id: Mapped[str | None] = mapped_column(String(32), default=None)
    run_trial: Mapped[int | None] = mapped_column(Integer, default=None)
    """Trial whose values that run has."""
    conclusion: Mapped[str | None] = mapped_column(Text, default=None)
    importance: Mapped[dict[str, float]] = mapped_column(Json(dict[str, float]), default=dict)
    """Share of each parameter, the largest first."""
    rule: Mapped[str | None] = mapped_column(Text, default=None)
    looks: Mapped[int | None] = mapped_column(Integer, default=None)
    """Evaluations on the validation rows that the choice was made from."""
    failure: Mapped[str | None] = mapped_column(Text, default=None)
    remedy: Mapped[str | None] = mapped_column(Text, default=None)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    spent_s: Mapped[float] = mapped_column(Float, default=0.0)
    cost: Mapped[Cost | None] = mapped_column(Json(Cost), default=None)


class TrialRow(Tables):
    """State: `running`, `complete`, `failed` or `pruned`."""

    __tablename__ = "trials"

    study_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(16))
    choices: Mapped[dict[str, JsonValue]] = mapped_column(Json(dict[str, JsonValue]))
    overrides: Mapped[dict[str, JsonValue]] = mapped_column(Json(dict[str, JsonValue]))
    family: Mapped[str] = mapped_column(String(64))
    """Type of its model."""
    rungs: Mapped[list[float]] = mapped_column(Json(list[float]), default=list)
    """Validation loss at each rung that it reached."""
    objectives: Mapped[list[float] | None] = mapped_column(Json(list[float]), default=None)
    metrics: Mapped[dict[str, float]] = mapped_column(Json(dict[str, float]), default=dict)
    losses: Mapped[list[float]] = mapped_column(Json(list[float]), default=list)
    """Validation loss by groups of entities."""
    weights: Mapped[str | None] = mapped_column(String(80), default=None)
    epochs: Mapped[int] = mapped_column(Integer, default=0)
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    processor_s: Mapped[float] = mapped_column(Float, default=0.0)
    memory: Mapped[int] = mapped_column(BigInteger, default=0)
    failure: Mapped[str | None] = mapped_column(Text, default=None)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class KeyRow(Tables):
    """A caller's idempotency key, and the study it stands for."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(256), primary_key=True)
    study_id: Mapped[str] = mapped_column(String(32))


def study(session: Session, study_id: str) -> StudyRow:
    """Raises NotFound."""
    found = session.get(StudyRow, study_id)
    if found is None:
        raise NotFound(f"no study `{study_id}`", remedy="List studies with `penstock study list`")
    return found


def trials(session: Session, study_id: str) -> list[TrialRow]:
    """Returns the study's trials in order of their numbers."""
    query = select(TrialRow).where(TrialRow.study_id == study_id).order_by(TrialRow.number)
    return list(session.scalars(query))


def trial(session: Session, study_id: str, number: int) -> TrialRow:
    """Raises NotFound."""
    found = session.get(TrialRow, (study_id, number))
    if found is None:
        raise NotFound(f"study {study_id} has no trial {number}")
    return found


def ended_trials(session: Session, study_id: str) -> int:
    """Number of the study's trials that have ended, however."""
    ended = (TrialRow.study_id == study_id, TrialRow.state != RUNNING)
    return session.scalar(select(func.count()).select_from(TrialRow).where(*ended)) or 0


def processor_s(session: Session, study_id: str) -> float:
    """Processor seconds of the study's trials that have ended."""
    spent = select(func.sum(TrialRow.processor_s)).where(TrialRow.study_id == study_id)
    return round(session.scalar(spent) or 0.0, 3)


def forget_running(session: Session, study_id: str) -> None:
    """Deletes the study's trials that have not ended."""
    session.execute(delete(TrialRow).where(TrialRow.study_id == study_id, TrialRow.state == RUNNING))


def newest(session: Session, pipeline: str, limit: int) -> list[str]:
    """Ids of studies, newest first; of all pipelines where `pipeline` is empty."""
    query = select(StudyRow.study_id).order_by(StudyRow.study_id.desc()).limit(limit)
    return list(session.scalars(query.where(StudyRow.pipeline == pipeline) if pipeline else query))


def costs(session: Session) -> Iterator[tuple[str, datetime, Cost]]:
    """Pipeline, end and cost of each study that ended."""
    ended = select(StudyRow.pipeline, StudyRow.ended_at, StudyRow.cost).where(StudyRow.ended_at.is_not(None))
    for pipeline, ended_at, cost in session.execute(ended):
        if ended_at is not None and cost is not None:
            yield pipeline, ended_at, cost


def counts(session: Session) -> dict[str, int]:
    """Studies by state."""
    return dict(session.execute(select(StudyRow.state, func.count()).group_by(StudyRow.state)).all())
