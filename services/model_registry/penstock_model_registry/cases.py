"""Cases: what the registry knows of one version when it decides on it, read in one transaction and
held against the rows once more before the decision is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from penstock.contracts.errors import Conflict, Unavailable
from penstock.contracts.events import AuditCompleted, Envelope, ModelVersion, ModelVersionPromoted
from penstock.contracts.pipeline import Gate, Pipeline
from penstock_model_registry import store as rows
from penstock_model_registry.store import PromotionRow, VersionRow


class Moved(Unavailable):
    """Changes by another writer between reading a case and writing the decision on it."""

    def __init__(self) -> None:
        super().__init__("the registry changed meanwhile", remedy="Try again")


@dataclass(frozen=True)
class Case:
    """One version with all that a decision on it rests on, as it was read."""

    version: ModelVersion
    changes: int
    audit: AuditCompleted | None
    waiver: Envelope | None
    rejected: str | None
    pipeline: Pipeline
    """Newest applied file: its promotion policy counts, not that of the training run."""
    gates: tuple[Gate, ...]
    """Gates of the file that the version was trained from."""
    champion: ModelVersionPromoted | None
    champion_audit: AuditCompleted | None

    @property
    def proof(self) -> tuple[Envelope, ...]:
        """Signed statements that a promotion would be granted on."""
        statements = (self.audit.evidence if self.audit else None, self.waiver)
        return tuple(envelope for envelope in statements if envelope is not None)

    @property
    def generation(self) -> int:
        """Number that a promotion of this version would get."""
        return self.champion.generation + 1 if self.champion else 1

    @property
    def subject(self) -> tuple[str, str]:
        """Pipeline and digest, which every statement about the version names."""
        return self.version.pipeline, self.version.digest

    @property
    def serves(self) -> bool:
        return self.champion is not None and self.champion.version.digest == self.version.digest


def case_of(session: Session, digest: str) -> Case:
    """Reads the case of a registered version. Raises NotFound."""
    row = rows.find_version(session, digest)
    newest = rows.pipeline_row(session, row.pipeline)
    trained_by = rows.trained_by(session, row.pipeline, row.version.pipeline_number)
    champion = rows.champion_of(session, row.pipeline)
    champion_row = session.get(VersionRow, champion.digest) if champion else None
    return Case(
        version=row.version,
        changes=row.changes,
        audit=row.audit,
        waiver=row.waiver,
        rejected=row.rejected,
        pipeline=newest.pipeline,
        gates=trained_by.pipeline.audit.gates,
        champion=champion.promoted if champion else None,
        champion_audit=champion_row.audit if champion_row else None,
    )


def rolled_back_or_before(session: Session, pipeline: str, from_generation: int) -> str | Case:
    """Returns the digest that a rollback from `from_generation` went to already, else the case of
    the version to go back to. Raises Conflict.
    """
    rows.pipeline_row(session, pipeline)
    if from_generation and (after := session.get(PromotionRow, (pipeline, from_generation + 1))) is not None:
        if after.reason == "rolled_back":
            return after.digest
        raise Conflict(f"`{pipeline}` has left generation {from_generation} by a promotion", where=pipeline)
    standing = rows.standing_of(session, pipeline)
    if len(standing) < 2:
        raise Conflict(
            (
                f"no version of `{pipeline}` was promoted before the one that serves"
                if standing
                else "no version is promoted"
            ),
            where=pipeline,
            remedy="Promote one with `penstock promote VERSION`",
        )
    return case_of(session, standing[-2].digest)


def unmoved(session: Session, case: Case) -> VersionRow:
    """Returns the version's row where nothing that the case rests on has changed. Raises Moved."""
    row = session.get(VersionRow, case.version.digest)
    champion = rows.champion_of(session, case.version.pipeline)
    generation = champion.generation if champion else 0
    if row is None or row.changes != case.changes or generation != case.generation - 1:
        raise Moved
    newest = rows.pipeline_row(session, case.version.pipeline)
    if newest.pipeline.promotion != case.pipeline.promotion:
        raise Moved
    return row


def raise_unless_registered(session: Session, digest: str) -> None:
    """Raises Unavailable before the version has come in: runs, audits and reviews lie in topics of
    their own, which a registry that catches up reads in any order.
    """
    if session.get(VersionRow, digest) is None:
        raise Unavailable("this version has not come in yet", where=digest)
