"""The registry's tables, and the queries over them: pipelines by number, versions, and every
promotion that ever was.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from sqlalchemy import Integer, String, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.errors import NotFound
from penstock.contracts.events import (
    Artifact,
    AuditCompleted,
    Envelope,
    ModelVersion,
    ModelVersionPromoted,
    PipelineApplied,
    PipelineDeleted,
    ReviewDecided,
)
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.versions import VersionReference
from penstock.runtime.tables import Json, UtcDateTime
from penstock_model_registry.promotion import Generation, Reason, standing

State = Literal["registered", "refused", "promoted", "retired"]


class Tables(DeclarativeBase):
    pass


class PipelineRow(Tables):
    """An applied file of a pipeline. Never changed but for its signature."""

    __tablename__ = "pipelines"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    # The event as it was published.
    applied: Mapped[PipelineApplied] = mapped_column(Json(PipelineApplied))

    @classmethod
    def of(cls, event: PipelineApplied) -> PipelineRow:
        return cls(name=event.pipeline, number=event.number, text=event.text, applied=event)

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline.model_validate(self.applied.spec, extra="ignore")


class DeletedRow(Tables):
    """A pipeline that was deleted, also where it was applied anew since."""

    __tablename__ = "deleted_pipelines"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    # Event as it was published.
    deleted: Mapped[PipelineDeleted] = mapped_column(Json(PipelineDeleted))
    # Topics of its files, by their names in the catalogue: one that comes back goes again.
    topics: Mapped[list[str]] = mapped_column(Json(list[str]), default=list)
    # Packages and signatures that are still in the artifact store.
    artifacts: Mapped[list[Artifact]] = mapped_column(Json(list[Artifact]), default=list)


class VersionRow(Tables):
    """A model package that a run handed in, with the decision on it."""

    __tablename__ = "versions"

    digest: Mapped[str] = mapped_column(String(80), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    run_id: Mapped[str] = mapped_column(String(128), index=True)
    state: Mapped[State] = mapped_column(String(16))
    # Without key and signature where the package was refused before it was signed.
    version: Mapped[ModelVersion] = mapped_column(Json(ModelVersion))
    # Reasons for a refusal, or what the version waits for; a sentence each.
    because: Mapped[list[str]] = mapped_column(Json(list[str]), default=list)
    # Newest audit that came in.
    audit: Mapped[AuditCompleted | None] = mapped_column(Json(AuditCompleted), default=None)
    # Signed approval of that audit's review.
    waiver: Mapped[Envelope | None] = mapped_column(Json(Envelope), default=None)
    # Sentence that names the person who rejected that audit's review, and their reason.
    rejected: Mapped[str | None] = mapped_column(Text, default=None)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    # Number of changes to this row, so that a decision can tell whether it rests on an older
    # one.
    changes: Mapped[int] = mapped_column(Integer, default=0)

    @classmethod
    def of(cls, version: ModelVersion, state: State, because: Iterable[str] = ()) -> VersionRow:
        return cls(
            digest=version.digest,
            pipeline=version.pipeline,
            run_id=version.run_id,
            state=state,
            version=version,
            because=list(because),
            registered_at=version.registered_at,
        )

    @property
    def signed(self) -> bool:
        return bool(self.version.keyid)


class PromotionRow(Tables):
    """A generation of a pipeline. Never changed but for its signature."""

    __tablename__ = "promotions"

    pipeline: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    reason: Mapped[Reason] = mapped_column(String(16))
    # Event as it was published.
    promoted: Mapped[ModelVersionPromoted] = mapped_column(Json(ModelVersionPromoted))
    promoted_at: Mapped[datetime] = mapped_column(UtcDateTime)

    @classmethod
    def of(cls, event: ModelVersionPromoted) -> PromotionRow:
        return cls(
            pipeline=event.version.pipeline,
            generation=event.generation,
            digest=event.version.digest,
            reason=event.reason,
            promoted=event,
            promoted_at=event.promoted_at,
        )


# -- pipelines -------------------------------------------------------------------------------------


def pipeline_row(session: Session, name: str, number: int = 0) -> PipelineRow:
    """Finds a pipeline's newest file, or the one of that number. Raises NotFound."""
    row = session.get(PipelineRow, (name, number)) if number else newest_pipeline(session, name)
    if row is None:
        known = names(session)
        numbered = f" number {number}" if number else ""
        raise NotFound(
            f"no pipeline `{name}`{numbered}",
            where=name,
            remedy=f"There is {', '.join(known)}" if known else "Apply one with `penstock apply FILE`",
        )
    return row


def newest_pipeline(session: Session, name: str) -> PipelineRow | None:
    """Finds a pipeline's newest file."""
    query = select(PipelineRow).where(PipelineRow.name == name)
    return session.scalar(query.order_by(PipelineRow.number.desc()).limit(1))


def deleted_up_to(session: Session, name: str) -> int:
    """Number up to which a pipeline's files were deleted; 0 where it never was. Its newest file tells it
    too: compaction leaves that one alone to a registry that lost its database.
    """
    if row := session.get(DeletedRow, name):
        return row.deleted.number
    file = newest_pipeline(session, name)
    return file.applied.deleted_before if file else 0


def newest_said(session: Session, name: str) -> PipelineApplied | PipelineDeleted | None:
    """Finds the last fact about a pipeline: its newest file, or that it was deleted."""
    if file := newest_pipeline(session, name):
        return file.applied
    row = session.get(DeletedRow, name)
    return row.deleted if row else None


def went(session: Session, name: str, digest: str) -> bool:
    """Tells whether a version is not there because its pipeline was deleted."""
    return session.get(VersionRow, digest) is None and deleted_up_to(session, name) > 0


def trained_by(session: Session, name: str, number: int) -> PipelineRow:
    """The file that a run was made by; the newest where that one went with a lost database. Raises
    NotFound for no pipeline.
    """
    return session.get(PipelineRow, (name, number)) or pipeline_row(session, name)


def outcome_of(review: ReviewDecided) -> tuple[Envelope | None, str | None]:
    """Signed waiver of an approval, or the sentence that refuses the version."""
    if review.decision == "approved":
        return review.waiver, None
    return None, f"{review.decided_by} rejected the review: {review.why}"


def names(session: Session) -> list[str]:
    """Lists the pipelines by name."""
    return list(session.scalars(select(PipelineRow.name).distinct().order_by(PipelineRow.name)))


# -- versions --------------------------------------------------------------------------------------


def find_version(session: Session, reference: str) -> VersionRow:
    """Finds a version by its digest or a prefix of at least 4 digits, with or without `sha256:` and
    `pipeline@`. Raises Invalid, NotFound.
    """
    asked = VersionReference.parse(reference)
    versions = session.execute(
        select(VersionRow.pipeline, VersionRow.digest).where(VersionRow.digest.startswith(asked.prefix))
    )
    return session.get_one(VersionRow, asked.choose(versions, missing="no such model version"))


def versions_of(session: Session, pipeline: str) -> list[str]:
    """Lists the digests of a pipeline's versions, newest first."""
    query = select(VersionRow.digest).where(VersionRow.pipeline == pipeline)
    return list(session.scalars(query.order_by(VersionRow.registered_at.desc(), VersionRow.digest)))


def states(session: Session) -> dict[str, int]:
    """Counts the versions in each state that occurs."""
    return dict(session.execute(select(VersionRow.state, func.count()).group_by(VersionRow.state)).all())


# -- promotions ------------------------------------------------------------------------------------


def champion_of(session: Session, pipeline: str) -> PromotionRow | None:
    """Finds the newest generation of a pipeline, whose version may serve."""
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
        Generation(generation, digest, reason) for generation, digest, reason in session.execute(query)
    )


def last_promotion(session: Session, digest: str) -> PromotionRow | None:
    """Finds the newest promotion of a version."""
    query = select(PromotionRow).where(PromotionRow.digest == digest)
    return session.scalar(query.order_by(PromotionRow.generation.desc()).limit(1))
