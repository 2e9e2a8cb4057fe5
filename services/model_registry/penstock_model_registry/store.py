"""The registry's tables, and the queries over them: pipelines by number, versions, and every
promotion that ever was.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import Integer, String, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.events import (
    AuditCompleted,
    Envelope,
    ModelVersion,
    ModelVersionPromoted,
    PipelineApplied,
    ReviewDecided,
)
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.versions import VersionReference, version_name
from penstock.runtime.tables import Json, UtcDateTime
from penstock_model_registry.promotion import Generation, standing

State = Literal["registered", "refused", "promoted", "retired"]


class Tables(DeclarativeBase):
    pass


class PipelineRow(Tables):
    """One applied file. Never changed."""

    __tablename__ = "pipelines"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    applied: Mapped[PipelineApplied] = mapped_column(Json(PipelineApplied))
    """As it was published."""

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline.model_validate(self.applied.spec)


class VersionRow(Tables):
    """One model package that a run handed in, and what became of it."""

    __tablename__ = "versions"

    digest: Mapped[str] = mapped_column(String(80), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    run_id: Mapped[str] = mapped_column(String(128), index=True)
    state: Mapped[str] = mapped_column(String(16))
    version: Mapped[ModelVersion] = mapped_column(Json(ModelVersion))
    """Without key and signature where the package was refused before it was signed."""
    because: Mapped[list[str]] = mapped_column(Json(list[str]), default=list)
    """Why it is refused, or what it waits for."""
    audit: Mapped[AuditCompleted | None] = mapped_column(Json(AuditCompleted), default=None)
    """The newest."""
    waiver: Mapped[Envelope | None] = mapped_column(Json(Envelope), default=None)
    """Of that audit."""
    rejected: Mapped[str | None] = mapped_column(Text, default=None)
    """Who rejected that audit's review, and why."""
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    changes: Mapped[int] = mapped_column(Integer, default=0)
    """Counts what happened to this row, so that a decision can tell whether it moved."""

    @property
    def signed(self) -> bool:
        return bool(self.version.keyid)

    @property
    def evidence(self) -> tuple[Envelope, ...]:
        if self.audit is None:
            return ()
        return (self.audit.evidence, self.waiver) if self.waiver else (self.audit.evidence,)


class PromotionRow(Tables):
    """One generation of a pipeline. Never changed."""

    __tablename__ = "promotions"

    pipeline: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    reason: Mapped[str] = mapped_column(String(16))
    promoted: Mapped[ModelVersionPromoted] = mapped_column(Json(ModelVersionPromoted))
    """As it was published."""
    promoted_at: Mapped[datetime] = mapped_column(UtcDateTime)


# -- pipelines -------------------------------------------------------------------------------------


def pipeline_row(session: Session, name: str, number: int = 0) -> PipelineRow:
    """The newest, or the one of that number. Raises NotFound."""
    query = select(PipelineRow).where(PipelineRow.name == name).order_by(PipelineRow.number.desc()).limit(1)
    row = session.scalar(query.where(PipelineRow.number == number) if number else query)
    if row is None:
        known = [row.name for row in newest_pipelines(session)]
        numbered = f" number {number}" if number else ""
        raise NotFound(
            f"no pipeline `{name}`{numbered}",
            where=name,
            remedy=f"There is {', '.join(known)}" if known else "Apply one with `penstock apply FILE`",
        )
    return row


def trained_by(session: Session, name: str, number: int) -> PipelineRow:
    """The file that a run was made by; the newest where that one went with a lost database. Raises
    NotFound for no pipeline.
    """
    try:
        return pipeline_row(session, name, number)
    except NotFound:
        return pipeline_row(session, name)


def rejection(review: ReviewDecided) -> str | None:
    """Why the review refuses the version, where it does."""
    return None if review.decision == "approved" else f"{review.decided_by} rejected the review: {review.why}"


def newest_pipelines(session: Session) -> list[PipelineRow]:
    """Each pipeline as it was last applied, by name."""
    newest = (
        select(PipelineRow.name, func.max(PipelineRow.number).label("number"))
        .group_by(PipelineRow.name)
        .subquery()
    )
    on = (PipelineRow.name == newest.c.name) & (PipelineRow.number == newest.c.number)
    return list(session.scalars(select(PipelineRow).join(newest, on).order_by(PipelineRow.name)))


# -- versions --------------------------------------------------------------------------------------


def find_version(session: Session, reference: str) -> VersionRow:
    """By digest or a prefix of at least 4 digits, with or without `sha256:` and `pipeline@`. Raises
    Invalid, NotFound.
    """
    found = VersionReference.parse(reference)
    query = (
        select(VersionRow)
        .where(VersionRow.digest.startswith(found.prefix))
        .order_by(VersionRow.digest)
        .limit(5)
    )
    if found.pipeline:
        query = query.where(VersionRow.pipeline == found.pipeline)
    rows = list(session.scalars(query))
    if not rows:
        raise NotFound(
            "no such model version", where=reference, remedy="List them with `penstock models PIPELINE`"
        )
    if len(rows) > 1:
        names = ", ".join(version_name(row.pipeline, row.digest, 16) for row in rows)
        raise Invalid(
            f"more than one version begins so: {names}", where=reference, remedy="Write more digits"
        )
    return rows[0]


def versions_of(session: Session, pipeline: str) -> list[VersionRow]:
    """Newest first."""
    query = select(VersionRow).where(VersionRow.pipeline == pipeline)
    return list(session.scalars(query.order_by(VersionRow.registered_at.desc(), VersionRow.digest)))


def states(session: Session) -> dict[str, int]:
    """How many versions there are in each state that occurs."""
    return dict(
        session.execute(select(VersionRow.state, func.count()).group_by(VersionRow.state)).tuples().all()
    )


# -- promotions ------------------------------------------------------------------------------------


def champion_of(session: Session, pipeline: str) -> PromotionRow | None:
    """The newest generation, whose version may serve."""
    query = select(PromotionRow).where(PromotionRow.pipeline == pipeline)
    return session.scalar(query.order_by(PromotionRow.generation.desc()).limit(1))


def standing_of(session: Session, pipeline: str) -> list[Generation]:
    """The promotions that stand, oldest first; the last is the champion's, the one before it what a
    rollback goes back to.
    """
    query = select(PromotionRow.generation, PromotionRow.digest, PromotionRow.reason).where(
        PromotionRow.pipeline == pipeline
    )
    return standing(
        Generation(generation, digest, _reason(reason))
        for generation, digest, reason in session.execute(query)
    )


def last_promotion(session: Session, digest: str) -> PromotionRow | None:
    """The newest promotion of a version."""
    query = select(PromotionRow).where(PromotionRow.digest == digest)
    return session.scalar(query.order_by(PromotionRow.generation.desc()).limit(1))


def _reason(text: str) -> Literal["promoted", "rolled_back"]:
    return "rolled_back" if text == "rolled_back" else "promoted"
