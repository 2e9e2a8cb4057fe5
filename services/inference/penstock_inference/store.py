"""Tables of inference: versions that were admitted, that serve, that were refused.

They are known after a restart whatever else is away.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Integer, String, Text, delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from penstock.contracts.events import DeploymentChanged, ModelVersionPromoted, RefusedDeployment, Served
from penstock.runtime.rpc import shown
from penstock.runtime.store import Effect
from penstock.runtime.tables import Json, UtcDateTime
from penstock.serving.model import Layout


class Tables(DeclarativeBase):
    pass


class AdmittedRow(Tables):
    """Admitted generation of a pipeline. Rows are small and kept for good: an old line of the
    door's log is read by the layout of its time.
    """

    __tablename__ = "admitted"

    pipeline: Mapped[str] = mapped_column(String(63), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str] = mapped_column(String(71))
    # Event as JSON, by which the version is verified anew at each start.
    promotion: Mapped[str] = mapped_column(Text)
    numbers: Mapped[tuple[str, ...]] = mapped_column(Json(tuple[str, ...]))
    strings: Mapped[tuple[str, ...]] = mapped_column(Json(tuple[str, ...]))
    booleans: Mapped[tuple[str, ...]] = mapped_column(Json(tuple[str, ...]))
    admitted_at: Mapped[datetime] = mapped_column(UtcDateTime)


class _Version:
    """A pipeline's version, and since when it serves."""

    pipeline: Mapped[str] = mapped_column(String(63), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(71))
    since: Mapped[datetime] = mapped_column(UtcDateTime)


class ServedRow(_Version, Tables):
    """Version that a pipeline serves."""

    __tablename__ = "served"


class StoppedRow(_Version, Tables):
    """Version that a pipeline served when a person stopped it, and serves when that is over."""

    __tablename__ = "stopped"


class RefusedRow(Tables):
    """Newest promotion of a pipeline that was refused, and why."""

    __tablename__ = "refused"

    pipeline: Mapped[str] = mapped_column(String(63), primary_key=True)
    generation: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(String(71))
    reason: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


def promotion_of(session: Session, pipeline: str, generation: int) -> ModelVersionPromoted:
    """Promotion of an admitted generation. Raises NoResultFound."""
    row = session.get_one(AdmittedRow, (pipeline, generation))
    return ModelVersionPromoted.model_validate_json(row.promotion)


def layouts(session: Session) -> list[tuple[str, Layout]]:
    """Pipeline and layout of every admitted generation that can be read: one that is damaged is
    written anew when its promotion comes from Kafka once more.
    """

    def read(key: tuple[str, int]) -> tuple[str, Layout]:
        row = session.get_one(AdmittedRow, key)
        ModelVersionPromoted.model_validate_json(row.promotion)
        return row.pipeline, Layout(
            row.digest, row.generation, row.numbers, row.strings, frozenset(row.booleans)
        )

    keys = session.execute(select(AdmittedRow.pipeline, AdmittedRow.generation))
    return shown([(pipeline, generation) for pipeline, generation in keys], read)


def deployments(session: Session, now: datetime) -> list[DeploymentChanged]:
    """State of every pipeline that serves a version, or had one refused, where it can be read."""
    pipelines = session.scalars(select(ServedRow.pipeline).union(select(RefusedRow.pipeline))).all()
    return shown(pipelines, lambda pipeline: _state(session, pipeline, now))


def stopped(session: Session) -> list[str]:
    """Pipelines with a version that serves once a stop is over."""
    return list(session.scalars(select(StoppedRow.pipeline)))


def admit(effect: Effect, promotion: ModelVersionPromoted, layout: Layout, now: datetime) -> None:
    _put(
        effect.session,
        AdmittedRow(
            pipeline=promotion.version.pipeline,
            generation=promotion.generation,
            digest=promotion.version.digest,
            promotion=promotion.model_dump_json(),
            numbers=layout.numbers,
            strings=layout.strings,
            booleans=tuple(sorted(layout.booleans)),
            admitted_at=now,
        ),
    )


def serve(effect: Effect, promotion: ModelVersionPromoted, now: datetime) -> DeploymentChanged:
    """Records and publishes that a version serves; an earlier refusal is history."""
    pipeline = promotion.version.pipeline
    _put(
        effect.session,
        ServedRow(
            pipeline=pipeline, generation=promotion.generation, digest=promotion.version.digest, since=now
        ),
    )
    for history in (RefusedRow, StoppedRow):
        effect.session.execute(delete(history).where(history.pipeline == pipeline))
    return _publish(effect, pipeline, now)


def withdraw(
    effect: Effect, promotion: ModelVersionPromoted, reason: str, now: datetime
) -> DeploymentChanged:
    """Records and publishes that the version that serves may do so no longer."""
    effect.session.execute(delete(ServedRow).where(ServedRow.pipeline == promotion.version.pipeline))
    return refuse(effect, promotion, reason, now)


def stop(effect: Effect, pipeline: str, now: datetime) -> DeploymentChanged:
    """Records and publishes that nothing of a pipeline serves; what was refused stays so."""
    if row := effect.session.get(ServedRow, pipeline):
        _put(effect.session, StoppedRow(**_columns(row)))
        effect.session.delete(row)
    return _publish(effect, pipeline, now)


def resume(effect: Effect, pipeline: str, now: datetime) -> DeploymentChanged:
    """Records and publishes that what was stopped serves again."""
    if row := effect.session.get(StoppedRow, pipeline):
        _put(effect.session, ServedRow(**_columns(row)))
        effect.session.delete(row)
    return _publish(effect, pipeline, now)


def refuse(effect: Effect, promotion: ModelVersionPromoted, reason: str, now: datetime) -> DeploymentChanged:
    """Records and publishes that a promotion is not served; the version that serves goes on."""
    pipeline = promotion.version.pipeline
    _put(
        effect.session,
        RefusedRow(
            pipeline=pipeline,
            generation=promotion.generation,
            digest=promotion.version.digest,
            reason=reason,
            at=now,
        ),
    )
    return _publish(effect, pipeline, now)


def _put(session: Session, row: Tables) -> None:
    """Writes a row in place of the one with its key, which may be damaged."""
    same = (key == getattr(row, key.name) for key in type(row).__table__.primary_key)
    session.execute(delete(type(row)).where(*same))
    session.add(row)


def _columns(row: _Version) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("pipeline", "generation", "digest", "since")}


def _publish(effect: Effect, pipeline: str, now: datetime) -> DeploymentChanged:
    effect.session.flush()
    changed = _state(effect.session, pipeline, now)
    effect.publish(changed)
    return changed


def _state(session: Session, pipeline: str, now: datetime) -> DeploymentChanged:
    served, refused = session.get(ServedRow, pipeline), session.get(RefusedRow, pipeline)
    return DeploymentChanged(
        pipeline=pipeline,
        serving=(
            Served(digest=served.digest, generation=served.generation, since=served.since) if served else None
        ),
        refused=(
            RefusedDeployment(
                digest=refused.digest, generation=refused.generation, reason=refused.reason, at=refused.at
            )
            if refused
            else None
        ),
        changed_at=now,
    )
