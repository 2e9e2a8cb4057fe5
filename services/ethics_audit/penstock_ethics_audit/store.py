"""The audit's tables and the queries over them: `audit` sections of pipelines, audits, reviews,
promotions.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Integer, String, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.errors import Conflict, Unavailable
from penstock.contracts.events import (
    Artifact,
    Cost,
    Envelope,
    GateResult,
    ModelVersion,
    ModelVersionPromoted,
)
from penstock.contracts.pipeline import Audit
from penstock.contracts.versions import VersionReference, version_name
from penstock.runtime.tables import Json, UtcDateTime

RUNNING, COMPLETED, FAILED = "running", "completed", "failed"
OPEN, APPROVED, REJECTED = "open", "approved", "rejected"
MOST_ENDED = 200
_GATES = Json(tuple[GateResult, ...])


class Tables(DeclarativeBase):
    pass


class AskedRow(Tables):
    """The `audit` section of one applied pipeline file. Never changed."""

    __tablename__ = "asked"

    pipeline: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    audit: Mapped[Audit] = mapped_column(Json(Audit))


class AuditRow(Tables):
    """An audit of a version."""

    __tablename__ = "audits"

    audit_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    state: Mapped[str] = mapped_column(String(16))
    version: Mapped[ModelVersion] = mapped_column(Json(ModelVersion))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    verdict: Mapped[str | None] = mapped_column(String(16), default=None)
    gates: Mapped[tuple[GateResult, ...]] = mapped_column(_GATES, default=())
    # The signed verdict.
    evidence: Mapped[Envelope | None] = mapped_column(Json(Envelope), default=None)
    report: Mapped[Artifact | None] = mapped_column(Json(Artifact), default=None)
    result: Mapped[Artifact | None] = mapped_column(Json(Artifact), default=None)
    scores: Mapped[Artifact | None] = mapped_column(Json(Artifact), default=None)
    failure: Mapped[str | None] = mapped_column(Text, default=None)
    remedy: Mapped[str | None] = mapped_column(Text, default=None)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    cost: Mapped[Cost | None] = mapped_column(Json(Cost), default=None)

    @property
    def name(self) -> str:
        return version_name(self.pipeline, self.digest)

    def check_completed(self) -> None:
        """Raises Conflict while the audit is running, and where it failed."""
        if self.state != COMPLETED:
            running = self.state == RUNNING
            raise Conflict(
                f"the audit of {self.name} {'is still running' if running else f'failed: {self.failure}'}",
                remedy="Try again when it has ended" if running else self.remedy,
            )

    def artifact(self, name: str) -> Artifact:
        """Returns the `report`, `result` or `scores`. Raises Conflict as `check_completed`."""
        self.check_completed()
        stored: Artifact = getattr(self, name)
        return stored


class ReviewRow(Tables):
    """A review: the gates that a person is asked to waive, and the decision."""

    __tablename__ = "reviews"

    audit_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(64), index=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    gates: Mapped[tuple[GateResult, ...]] = mapped_column(_GATES)
    state: Mapped[str] = mapped_column(String(16), index=True)
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # A typed name, not an identity.
    decided_by: Mapped[str | None] = mapped_column(String(256), default=None)
    why: Mapped[str | None] = mapped_column(Text, default=None)
    waiver: Mapped[Envelope | None] = mapped_column(Json(Envelope), default=None)
    rejection: Mapped[Envelope | None] = mapped_column(Json(Envelope), default=None)
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class PromotionRow(Tables):
    """A generation of a pipeline, as the registry granted it. Never changed."""

    __tablename__ = "promotions"

    pipeline: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    promoted: Mapped[ModelVersionPromoted] = mapped_column(Json(ModelVersionPromoted))

    @classmethod
    def of(cls, event: ModelVersionPromoted) -> PromotionRow:
        version = event.version
        return cls(
            pipeline=version.pipeline, generation=event.generation, digest=version.digest, promoted=event
        )


def last_promotion(session: Session, digest: str) -> ModelVersionPromoted | None:
    query = select(PromotionRow).where(PromotionRow.digest == digest)
    row = session.scalar(query.order_by(PromotionRow.generation.desc()).limit(1))
    return row.promoted if row else None


def asked(session: Session, pipeline: str, number: int) -> Audit | None:
    """Finds the `audit` section of one number of a pipeline's file; None for an older number, which
    went with a lost database. Raises Unavailable before the number has come in.
    """
    newest = session.scalar(select(func.max(AskedRow.number)).where(AskedRow.pipeline == pipeline))
    if (newest or 0) < number:
        raise Unavailable(f"number {number} of `{pipeline}` has not come in yet")
    row = session.get(AskedRow, (pipeline, number))
    return row.audit if row else None


def newest_audit(session: Session, digest: str) -> AuditRow | None:
    query = select(AuditRow).where(AuditRow.digest == digest)
    return session.scalar(query.order_by(AuditRow.audit_id.desc()).limit(1))


def ended(session: Session, pipeline: str, before: datetime) -> list[AuditRow]:
    """Lists a pipeline's audits that had ended with a verdict before a moment, the oldest of the newest
    `MOST_ENDED` first.
    """
    query = select(AuditRow).where(
        AuditRow.pipeline == pipeline, AuditRow.state == COMPLETED, AuditRow.ended_at < before
    )
    newest = query.order_by(AuditRow.ended_at.desc(), AuditRow.audit_id.desc()).limit(MOST_ENDED)
    return [*session.scalars(newest)][::-1]


def costs(session: Session) -> Iterator[tuple[str, datetime, Cost]]:
    """Pipeline, end and cost of each audit that ended."""
    ended = select(AuditRow.pipeline, AuditRow.ended_at, AuditRow.cost).where(AuditRow.ended_at.is_not(None))
    for pipeline, ended_at, cost in session.execute(ended):
        if ended_at is not None and cost is not None:  # not of a release before
            yield pipeline, ended_at, cost


def reviews(session: Session, pipeline: str = "", *, open_only: bool = False) -> list[str]:
    """Lists the audits that were or are to be reviewed, newest first."""
    query = select(ReviewRow.audit_id).order_by(ReviewRow.audit_id.desc())
    if pipeline:
        query = query.where(ReviewRow.pipeline == pipeline)
    if open_only:
        query = query.where(ReviewRow.state == OPEN)
    return list(session.scalars(query))


def find_audit(session: Session, reference: str) -> AuditRow:
    """Finds the newest audit of a version, by digest or a prefix of at least 4 digits, with or without
    `pipeline@`. Raises Invalid, NotFound.
    """
    asked_for = VersionReference.parse(reference)
    versions = session.execute(
        select(AuditRow.pipeline, AuditRow.digest).where(AuditRow.digest.startswith(asked_for.prefix))
    )
    row = newest_audit(session, asked_for.choose(versions, missing="no audit of such a version"))
    assert row is not None
    return row
