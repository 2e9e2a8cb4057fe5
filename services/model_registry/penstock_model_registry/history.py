"""History of a registry that starts with an empty database, from what it announced before: numbers
and generations must go on rising.

`pipelines.v1` and `model-versions.v1` are compacted, so they hold each pipeline's newest file, each
version, and each pipeline's newest promotion; `audits.v1` holds every verdict. What is not signed by
who may state it is none of it. Older files and the promotions before the newest are gone with the
database: what was promoted serves on and can be replaced, but there is nothing to roll back to. A
database that holds anything is never touched.

What was known of a version when the promotion that stands was made was decided on by then: verdict
and review come back as they are, and promote nothing, however often they are read again. Whoever
wants the version names it: `penstock promote`.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from penstock.contracts.events import (
    AuditCompleted,
    ModelVersionPromoted,
    ModelVersionRefused,
    ModelVersionRegistered,
    PipelineApplied,
    PipelineDeleted,
    ReviewDecided,
)
from penstock.packages.evidence import verdict_of
from penstock.packages.facts import check_granted, verify_fact, verify_review
from penstock.packages.keys import Keys
from penstock.runtime import restore
from penstock.runtime.broker import Router
from penstock.runtime.store import Effect, Store
from penstock_model_registry.store import DeletedRow, PipelineRow, PromotionRow, VersionRow, outcome_of

log = structlog.get_logger(__name__)


class History(restore.History):
    def __init__(self, store: Store, keys: Keys) -> None:
        self._keys = keys
        self._pipelines: dict[str, PipelineApplied] = {}
        self._deleted: dict[str, PipelineDeleted] = {}
        self._versions: dict[str, ModelVersionRegistered | ModelVersionRefused] = {}
        self._as_of: dict[str, datetime] = {}  # when a version's state was stated
        self._promoted: dict[str, ModelVersionPromoted] = {}
        self._audits: dict[str, AuditCompleted] = {}
        self._reviews: dict[str, ReviewDecided] = {}
        super().__init__(store, "penstock.model_registry.history")

    def reading(self, router: Router) -> None:
        @router.on_replay(PipelineApplied)
        def on_pipeline_applied(event: PipelineApplied) -> None:
            verify_fact(event, self._keys.trust())
            known = self._pipelines.get(event.pipeline)
            if known is None or known.number < event.number:  # an older file may be published again
                self._pipelines[event.pipeline] = event

        @router.on_replay(PipelineDeleted)
        def on_pipeline_deleted(event: PipelineDeleted) -> None:
            verify_fact(event, self._keys.trust())
            known = self._deleted.get(event.pipeline)
            if known is None or known.number < event.number:
                self._deleted[event.pipeline] = event

        @router.on_replay(ModelVersionRegistered, ModelVersionRefused)
        def on_model_version(event: ModelVersionRegistered | ModelVersionRefused) -> None:
            at = verify_fact(event, self._keys.trust()).at
            if self._as_of.get(event.version.digest, at) <= at:
                self._versions[event.version.digest], self._as_of[event.version.digest] = event, at

        @router.on_replay(ModelVersionPromoted)
        def on_model_version_promoted(event: ModelVersionPromoted) -> None:
            check_granted(event, self._keys.trust())
            known = self._promoted.get(event.version.pipeline)
            if known is None or known.generation < event.generation:
                self._promoted[event.version.pipeline] = event

        @router.on_replay(AuditCompleted)
        def on_audit_completed(event: AuditCompleted) -> None:
            verdict_of(event, self._keys.trust())
            known = self._audits.get(event.digest)
            if known is None or known.audit_id < event.audit_id:  # ULIDs: by time
                self._audits[event.digest] = event

        @router.on_replay(ReviewDecided)
        def on_review_decided(event: ReviewDecided) -> None:
            verify_review(event, self._keys.trust())
            self._reviews.setdefault(event.audit_id, event)  # the first one stands

    def empty(self, session: Session) -> bool:
        return all(
            session.scalar(select(key).limit(1)) is None
            for key in (PipelineRow.name, DeletedRow.name, VersionRow.digest)
        )

    def write(self, effect: Effect) -> None:
        promoted = self._promoted.values()
        gone = {name: event.number for name, event in self._deleted.items()}
        pipelines = [one for name, one in self._pipelines.items() if one.number > gone.get(name, 0)]
        gone |= {one.pipeline: one.deleted_before for one in pipelines}
        versions = {
            digest: event
            for digest, event in (
                {event.version.digest: event for event in promoted} | self._versions
            ).items()
            if event.version.pipeline_number > gone.get(event.version.pipeline, 0)
        }
        effect.session.add_all(map(PipelineRow.of, pipelines))
        effect.session.add_all(DeletedRow(name=name, deleted=one) for name, one in self._deleted.items())
        effect.session.add_all(
            self._version_row(event, self._promoted.get(event.version.pipeline))
            for event in versions.values()
        )
        effect.session.add_all(map(PromotionRow.of, promoted))
        if pipelines:
            log.warning(
                "history_restored",
                pipelines=len(pipelines),
                versions=len(versions),
                promoted=len(self._promoted),
            )

    def _version_row(
        self,
        event: ModelVersionRegistered | ModelVersionRefused | ModelVersionPromoted,
        standing: ModelVersionPromoted | None,
    ) -> VersionRow:
        """Restores a version with the audit and the review that were decided on before the promotion
        that stands; what came later is read, and decided on, once more.
        """
        digest = event.version.digest
        if standing and standing.version.digest == digest:
            row = VersionRow.of(event.version, "promoted")
        elif isinstance(event, ModelVersionRefused):
            row = VersionRow.of(event.version, "refused", event.because)
        else:
            row = VersionRow.of(event.version, "registered")
        audit = self._audits.get(digest)
        if audit and (row.state == "refused" or (standing and audit.completed_at <= standing.promoted_at)):
            row.audit = audit
            review = self._reviews.get(audit.audit_id)
            if review and standing and review.decided_at <= standing.promoted_at:
                row.waiver, row.rejected = outcome_of(review)
        return row
