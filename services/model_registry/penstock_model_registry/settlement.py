"""Writing a decision down: states of the rows, the events that follow, metrics and log."""

from __future__ import annotations

from datetime import datetime

import structlog

from penstock.contracts import metrics
from penstock.contracts.events import ModelVersionPromoted, ModelVersionRefused
from penstock.contracts.versions import version_name
from penstock.runtime.metrics import counter
from penstock.runtime.store import Effect
from penstock_model_registry import promotion
from penstock_model_registry.cases import Case
from penstock_model_registry.judge import Judged
from penstock_model_registry.promotion import AwaitsReview, Promoted
from penstock_model_registry.store import PromotionRow, VersionRow

log = structlog.get_logger(__name__)
_DECISIONS = counter(metrics.DECISIONS)


def settle(effect: Effect, row: VersionRow, case: Case, judged: Judged, now: datetime) -> None:
    """Writes a decision and publishes what follows from it. The version that serves keeps serving,
    whatever a later audit says: a person rolls back.
    """
    row.changes += 1
    match judged.decision:
        case Promoted():
            if judged.promoted is None:
                return
            promote(effect, row, case, judged.promoted)
            outcome: str = judged.promoted.reason
        case AwaitsReview(because=because):
            _refuse(effect, row, case, (*because, "waits for a review"), now)
            outcome = "awaits_review"
        case promotion.Refused(because=because):
            _refuse(effect, row, case, because, now)
            outcome = "refused"
    decided = {"pipeline": row.pipeline, "decision": outcome}
    effect.after_commit(lambda: _DECISIONS.add(1, decided))


def _refuse(effect: Effect, row: VersionRow, case: Case, because: tuple[str, ...], now: datetime) -> None:
    if list(because) != row.because and row.state in ("registered", "refused"):
        effect.publish(ModelVersionRefused(version=case.version, because=because, refused_at=now))
    row.because = list(because)
    if row.state == "registered":
        row.state = "refused"
    log.info(
        "version_refused",
        version=version_name(row.pipeline, row.digest),
        state=row.state,
        because=because,
    )


def promote(effect: Effect, row: VersionRow, case: Case, promoted: ModelVersionPromoted) -> None:
    """Gives the pipeline its next generation and retires the champion before it."""
    if case.champion is not None:
        before = effect.session.get(VersionRow, case.champion.version.digest)
        if before is not None:
            before.state, before.changes = "retired", before.changes + 1
    row.state, row.because = "promoted", []
    effect.session.add(
        PromotionRow(
            pipeline=row.pipeline,
            generation=promoted.generation,
            digest=row.digest,
            reason=promoted.reason,
            promoted=promoted,
            promoted_at=promoted.promoted_at,
        )
    )
    effect.publish(promoted)
    log.info(
        "version_promoted",
        version=version_name(row.pipeline, row.digest),
        generation=promoted.generation,
        reason=promoted.reason,
        by=promoted.promoted_by,
    )
