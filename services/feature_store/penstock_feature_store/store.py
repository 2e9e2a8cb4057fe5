"""The feature store's tables: pipelines by number, training sets, what the trigger has counted,
runs under way.

None holds a person's data: rows of events are in the lake, the online store and the training sets,
where an erasure finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import BigInteger, Integer, String, delete, func, or_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.tables import Json, UtcDateTime


class Tables(DeclarativeBase):
    pass


class PipelineRow(Tables):
    """An applied pipeline. Never changed; kept because a run may ask for a number that is not the newest."""

    __tablename__ = "pipelines"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    spec: Mapped[Pipeline] = mapped_column(Json(Pipeline))


class Labels(BaseModel, frozen=True):
    """Up to where a source's records, by partition, are in a training set."""

    source: str
    positions: dict[int, int]


class TrainingSetRow(Tables):
    __tablename__ = "training_sets"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # the caller's
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    number: Mapped[int] = mapped_column(Integer)
    # As it stands: an erasure changes its parts' digests, and `left` counts the rows that went.
    body: Mapped[TrainingSet] = mapped_column(Json(TrainingSet))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Labels that count when a run trains on it; None once they have, or from before this was kept.
    labels: Mapped[Labels | None] = mapped_column(Json(Labels))


class CountedRow(Tables):
    """Up to where a pipeline's labels have been counted: they are in a run's training set, or a run was
    requested for them.
    """

    __tablename__ = "counted"

    pipeline: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger)  # the next offset on the records topic


class RunRow(Tables):
    """A training run that was requested and has not ended."""

    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    training_set: Mapped[str | None] = mapped_column(String(64))  # None: of an older release, its own


def keep_pipeline(session: Session, pipeline: Pipeline, number: int) -> None:
    """Once; another replica may do so at the same moment."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    row = {"name": pipeline.pipeline, "number": number, "spec": pipeline}
    session.execute(insert(PipelineRow).values(row).on_conflict_do_nothing())


def newest_pipelines(session: Session) -> list[tuple[Pipeline, int]]:
    """Pipelines, each as it was applied last, and its number."""
    newest = select(PipelineRow.name, func.max(PipelineRow.number)).group_by(PipelineRow.name)
    rows = session.scalars(
        select(PipelineRow).where(tuple_(PipelineRow.name, PipelineRow.number).in_(newest))
    )
    return [(row.spec, row.number) for row in rows]


def kept_up_to(session: Session, name: str, number: int) -> list[Pipeline]:
    """Lists the pipeline's files up to a number, which is deleted where there are any."""
    query = select(PipelineRow).where(PipelineRow.name == name, PipelineRow.number <= number)
    return [row.spec for row in session.scalars(query.order_by(PipelineRow.number))]


def training_sets_up_to(session: Session, name: str, number: int) -> list[str]:
    query = select(TrainingSetRow.id).where(TrainingSetRow.pipeline == name, TrainingSetRow.number <= number)
    return list(session.scalars(query))


def drop_pipeline(session: Session, name: str, number: int) -> None:
    """Deletes all rows of a pipeline up to a number; its files are what says that they are there."""
    for table in (CountedRow, RunRow):
        session.execute(delete(table).where(table.pipeline == name))
    session.execute(
        delete(TrainingSetRow).where(TrainingSetRow.pipeline == name, TrainingSetRow.number <= number)
    )
    session.execute(delete(PipelineRow).where(PipelineRow.name == name, PipelineRow.number <= number))


def counted(session: Session, pipeline: str, source: str) -> dict[int, int]:
    rows = session.scalars(
        select(CountedRow).where(CountedRow.pipeline == pipeline, CountedRow.source == source)
    )
    return {row.partition: row.position for row in rows}


def count_up_to(session: Session, pipeline: str, source: str, positions: Mapping[int, int]) -> None:
    """Never backwards: an older training set may be finished after a newer request."""
    known = counted(session, pipeline, source)
    for partition, position in positions.items():
        if position > known.get(partition, -1):
            session.merge(
                CountedRow(pipeline=pipeline, source=source, partition=partition, position=position)
            )


def begin_run(session: Session, run_id: str, pipeline: str, training_set: str | None = None) -> None:
    """Counts the labels of the training set, by default the run's own, if it has been made."""
    training_set = training_set or run_id
    session.merge(RunRow(run_id=run_id, pipeline=pipeline, training_set=training_set))
    _count(session, session.get(TrainingSetRow, training_set))


def keep_training_set(session: Session, row: TrainingSetRow) -> None:
    """Counts its labels if a run trains on it; one that only a study looks at leaves them to the next
    run.
    """
    kept = session.merge(row)
    of_a_run = select(RunRow.run_id).where(or_(RunRow.training_set == row.id, RunRow.run_id == row.id))
    if session.scalar(of_a_run.limit(1)) is not None:
        _count(session, kept)


def _count(session: Session, row: TrainingSetRow | None) -> None:
    if row is not None and row.labels is not None:
        count_up_to(session, row.pipeline, row.labels.source, row.labels.positions)
        row.labels = None


def end_run(session: Session, run_id: str) -> None:
    session.execute(delete(RunRow).where(RunRow.run_id == run_id))


def runs_under_way(session: Session, pipeline: str) -> int:
    return session.scalar(select(func.count()).select_from(RunRow).where(RunRow.pipeline == pipeline)) or 0
