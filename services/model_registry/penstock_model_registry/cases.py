"""Cases: all that a decision on one version rests on, read in one transaction. In another, later
one the decision is written, where the case has not changed since.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from penstock.contracts import metrics
from penstock.contracts.errors import Conflict, Unavailable
from penstock.contracts.events import (
    AuditCompleted,
    Envelope,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRefused,
)
from penstock.contracts.pipeline import Gate, Pipeline
from penstock.contracts.verdicts import WAITS
from penstock.contracts.versions import version_name
from penstock.packages.facts import signed
from penstock.packages.keys import Signer
from penstock.runtime.metrics import counter
from penstock.runtime.store import Effect
from penstock_model_registry import promotion
from penstock_model_registry import store as rows
from penstock_model_registry.promotion import AwaitsReview, Decision, Promoted
from penstock_model_registry.store import PromotionRow, VersionRow

log = structlog.get_logger(__name__)
MOST_EARLIER = 20  # versions among which the best is looked for
_DECISIONS = counter(metrics.DECISIONS)


class Moved(Unavailable):
    """Changes by another writer between reading a case and writing the decision on it."""

    def __init__(self) -> None:
        super().__init__("the registry changed meanwhile", remedy="Try again")


@dataclass(frozen=True)
class Case:
    """A version with all that a decision on it rests on, as it was read."""

    version: ModelVersion
    changes: int
    audit: AuditCompleted | None
    waiver: Envelope | None
    rejected: str | None
    retired: bool  # served before, and does so no more
    pipeline: Pipeline  # the newest applied file: its policy counts, not that of the training run
    trained_by: Pipeline  # the file that the version was trained from: its gates count
    champion: ModelVersionPromoted | None
    champion_audit: AuditCompleted | None
    # Of the versions that served before the champion and were not rolled back from, newest first
    earlier_audits: tuple[AuditCompleted, ...] = ()

    @property
    def proof(self) -> tuple[Envelope, ...]:
        """Signed statements that a promotion would be granted on."""
        statements = (self.audit.evidence if self.audit else None, self.waiver)
        return tuple(envelope for envelope in statements if envelope is not None)

    @property
    def gates(self) -> tuple[Gate, ...]:
        return self.trained_by.audit.gates

    @property
    def generation(self) -> int:
        """Number that a promotion of this version would get."""
        return self.champion.generation + 1 if self.champion else 1

    @property
    def serves(self) -> bool:
        return self.champion is not None and self.champion.version.digest == self.version.digest


@dataclass(frozen=True)
class Judged:
    """A decision, with the promotion that it leads to."""

    decision: Decision
    # Signed and checked, where the decision is Promoted and the version does not serve yet.
    promoted: ModelVersionPromoted | None = None


def case_of(session: Session, row: VersionRow) -> Case:
    """Reads the case of a version."""
    trained_by = rows.trained_by(session, row.pipeline, row.version.pipeline_number)
    champion = rows.champion_of(session, row.pipeline)
    return Case(
        version=row.version,
        changes=row.changes,
        audit=row.audit,
        waiver=row.waiver,
        rejected=row.rejected,
        retired=row.state == "retired",
        pipeline=rows.pipeline_row(session, row.pipeline).pipeline,
        trained_by=trained_by.pipeline,
        champion=champion.promoted if champion else None,
        champion_audit=session.get_one(VersionRow, champion.digest).audit if champion else None,
        earlier_audits=_earlier(session, row, champion.digest) if champion else (),
    )


def _earlier(session: Session, row: VersionRow, champion: str) -> tuple[AuditCompleted, ...]:
    stood = [one.digest for one in reversed(rows.standing_of(session, row.pipeline))]
    others = [digest for digest in dict.fromkeys(stood) if digest not in (champion, row.digest)]
    found = [session.get(VersionRow, digest) for digest in others[:MOST_EARLIER]]
    return tuple(one.audit for one in found if one and one.audit)


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
    return case_of(session, session.get_one(VersionRow, standing[-2].digest))


def unmoved(session: Session, case: Case) -> VersionRow:
    """Returns the version's row where nothing that the case rests on has changed. Raises Moved."""
    row = session.get(VersionRow, case.version.digest)
    if row is None:  # its pipeline was deleted
        raise Moved
    now, policy = case_of(session, row), case.pipeline.promotion
    if (now.changes, now.generation, now.pipeline.promotion) != (case.changes, case.generation, policy):
        raise Moved
    return row


def registered(session: Session, digest: str) -> VersionRow:
    """Finds a version. Raises Unavailable before it has come in: runs, audits and reviews lie in topics
    of their own, which a registry that catches up reads in any order.
    """
    row = session.get(VersionRow, digest)
    if row is None:
        raise Unavailable("this version has not come in yet", where=digest)
    return row


def settle(
    effect: Effect, row: VersionRow, case: Case, judged: Judged, now: datetime, signer: Signer
) -> None:
    """Writes a decision and publishes what follows from it, a refusal signed. The version that
    serves keeps serving, whatever a later audit says: a person rolls back.
    """
    row.changes += 1
    match judged.decision:
        case Promoted(because=because):
            if judged.promoted is None:
                return
            promote(effect, row, case, judged.promoted, because)
            outcome: str = judged.promoted.reason
        case AwaitsReview(because=because):
            _refuse(effect, row, case, (*because, WAITS), now, signer)
            outcome = "awaits_review"
        case promotion.Refused(because=because):
            _refuse(effect, row, case, because, now, signer)
            outcome = "refused"
    decided = {"pipeline": row.pipeline, "decision": outcome}
    effect.after_commit(lambda: _DECISIONS.add(1, decided))


def _refuse(
    effect: Effect, row: VersionRow, case: Case, because: tuple[str, ...], now: datetime, signer: Signer
) -> None:
    if list(because) != row.because and row.state in ("registered", "refused"):
        refused = ModelVersionRefused(version=case.version, because=because, refused_at=now)
        effect.publish(signed(refused, signer))
    row.because = list(because)
    if row.state == "registered":
        row.state = "refused"
    log.info(
        "version_refused",
        version=version_name(row.pipeline, row.digest),
        state=row.state,
        because=because,
    )


def promote(
    effect: Effect,
    row: VersionRow,
    case: Case,
    promoted: ModelVersionPromoted,
    because: tuple[str, ...] = (),
) -> None:
    """Gives the pipeline its next generation and retires the champion before it; `because` says how the
    two compare.
    """
    if case.champion is not None:
        before = effect.session.get_one(VersionRow, case.champion.version.digest)
        before.state, before.changes = "retired", before.changes + 1
    row.state, row.because = "promoted", list(because)
    effect.session.add(PromotionRow.of(promoted))
    effect.publish(promoted)
    log.info(
        "version_promoted",
        version=version_name(row.pipeline, row.digest),
        generation=promoted.generation,
        reason=promoted.reason,
        by=promoted.promoted_by,
    )
