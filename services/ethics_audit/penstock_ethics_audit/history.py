"""A service that starts with an empty database reads what it published before, and audits what
waits for its verdict.

`audits.v1` and `reviews.v1` hold every verdict and decision, signed; `model-versions.v1` each
version. What is not signed by this service's keys is not its history; nor is an audit that failed,
which is carried out once more. A database that holds an audit is never touched. The applied
pipelines are restored before it: an audit that begins here asks for what their files ask.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from penstock.contracts.errors import Unavailable
from penstock.contracts.events import (
    AuditCompleted,
    AuditStarted,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRefused,
    ModelVersionRegistered,
    ReviewDecided,
)
from penstock.packages import evidence
from penstock.packages.evidence import may_be_waived, not_passed
from penstock.packages.facts import check_granted, verify_fact, verify_review
from penstock.packages.keys import Keys
from penstock.runtime import restore
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_ethics_audit import store as rows
from penstock_ethics_audit.desk import Desk
from penstock_ethics_audit.store import AuditRow, PromotionRow, ReviewRow

log = structlog.get_logger(__name__)


class History(restore.History):
    def __init__(self, store: Store, desk: Desk, keys: Keys) -> None:
        self._desk = desk
        self._keys = keys
        self._versions: dict[str, ModelVersion] = {}
        self._promoted: dict[str, ModelVersionPromoted] = {}
        self._waiting: dict[str, ModelVersionRegistered] = {}
        self._started: dict[str, datetime] = {}
        self._ended: dict[str, AuditCompleted] = {}
        self._decided: dict[str, ReviewDecided] = {}
        super().__init__(store, "penstock.ethics_audit.history")

    def reading(self, router: Router) -> None:
        @router.on_replay(ModelVersionRegistered, ModelVersionRefused, ModelVersionPromoted)
        def on_model_version(
            event: ModelVersionRegistered | ModelVersionRefused | ModelVersionPromoted,
        ) -> None:
            digest, trust = event.version.digest, self._keys.trust()
            if isinstance(event, ModelVersionPromoted):
                check_granted(event, trust)
                known = self._promoted.get(event.version.pipeline)
                if known is None or known.generation < event.generation:
                    self._promoted[event.version.pipeline] = event
            else:
                verify_fact(event, trust)
            self._versions[digest] = event.version
            if isinstance(event, ModelVersionRegistered):
                self._waiting[digest] = event
            elif isinstance(event, ModelVersionRefused):
                self._waiting.pop(digest, None)

        @router.on_replay(AuditStarted, AuditCompleted)
        def on_audit(event: AuditStarted | AuditCompleted) -> None:
            if isinstance(event, AuditStarted):
                verify_fact(event, self._keys.trust())
                self._started[event.audit_id] = event.started_at
            else:
                evidence.verdict_of(event, self._keys.trust())
                self._ended[event.audit_id] = event

        @router.on_replay(ReviewDecided)
        def on_review_decided(event: ReviewDecided) -> None:
            verify_review(event, self._keys.trust())
            self._decided.setdefault(event.audit_id, event)

    def empty(self, session: Session) -> bool:
        return session.scalar(select(AuditRow.audit_id).limit(1)) is None

    def write(self, effect: Effect) -> None:
        for promoted in self._promoted.values():
            effect.session.merge(PromotionRow.of(promoted))
        held = [ended for ended in self._ended.values() if self._holds(ended)]
        for ended in held:
            effect.session.add(
                AuditRow(
                    audit_id=ended.audit_id,
                    pipeline=ended.pipeline,
                    digest=ended.digest,
                    state=rows.COMPLETED,
                    version=self._versions[ended.digest],
                    started_at=self._started.get(ended.audit_id, ended.completed_at),
                    ended_at=ended.completed_at,
                    verdict=ended.verdict,
                    gates=ended.gates,
                    evidence=ended.evidence,
                    report=ended.report,
                    result=ended.result,
                    scores=ended.scores,
                    cost=ended.cost,
                )
            )
            gone = self._desk.gone(self._versions[ended.digest])
            if may_be_waived(ended.gates) and (not gone or ended.audit_id in self._decided):
                effect.session.add(self._review(ended))
            self._waiting.pop(ended.digest, None)
        effect.session.flush()
        for registered in self._waiting.values():
            try:
                self._desk.begin(registered, effect)
            except Unavailable as error:
                log.error(
                    "audit_left_out",
                    pipeline=registered.version.pipeline,
                    digest=registered.version.digest,
                    why=str(error),
                )
        if self._ended:
            log.warning("history_restored", audits=len(held), begun=len(self._waiting))

    def _review(self, ended: AuditCompleted) -> ReviewRow:
        row = ReviewRow(
            audit_id=ended.audit_id,
            pipeline=ended.pipeline,
            digest=ended.digest,
            gates=not_passed(ended.gates),
            state=rows.OPEN,
            requested_at=ended.completed_at,
        )
        decided = self._decided.get(ended.audit_id)
        if decided is None:
            return row
        row.state = rows.APPROVED if decided.decision == "approved" else rows.REJECTED
        row.decided_by, row.why, row.decided_at = decided.decided_by, decided.why, decided.decided_at
        row.waiver, row.rejection = decided.waiver, decided.rejection
        return row

    def _holds(self, ended: AuditCompleted) -> bool:
        """Tells whether the verdict is on a version that is known."""
        holds = ended.digest in self._versions
        if not holds:
            log.error("audit_left_out", audit_id=ended.audit_id, pipeline=ended.pipeline, digest=ended.digest)
        return holds
