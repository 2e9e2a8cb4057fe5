"""The audit desk: rows and events that follow from a registered version, a finished job and a
person's decision. Signs verdicts and waivers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog
from ulid import ULID

from penstock.contracts import metrics
from penstock.contracts.errors import Conflict, Invalid, Kind, Refused
from penstock.contracts.events import (
    AuditCompleted,
    AuditFailed,
    AuditStarted,
    Envelope,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRegistered,
    ReviewDecided,
    ReviewRequested,
)
from penstock.packages import dsse
from penstock.packages.evidence import Verdict, Waiver, gate_name, may_be_waived, not_passed
from penstock.packages.facts import Rejection, check_granted, signed, verify_fact
from penstock.packages.keys import Keys
from penstock.runtime.metrics import histogram
from penstock.runtime.pipelines import Applied
from penstock.runtime.store import Effect
from penstock_ethics_audit import store as rows
from penstock_ethics_audit.looks import Earlier, rules_of
from penstock_ethics_audit.store import AskedRow, AuditRow, PromotionRow, ReviewRow

log = structlog.get_logger(__name__)
_DURATION = histogram(metrics.AUDITS)

JOB = "audit"


class Desk:
    def __init__(self, keys: Keys, artifacts: str, clock: Callable[[], datetime]) -> None:
        """`artifacts`: the stores' URIs, for the jobs."""
        self._keys = keys
        self._artifacts = artifacts
        self._clock = clock
        self._deleted: dict[str, int] = {}  # numbers up to which pipelines were deleted; told at each start

    def remember(self, applied: Applied, effect: Effect) -> None:
        """Keeps what the pipeline's file asks of an audit: the package that is trained from it must
        ask for the same.
        """
        file = applied.pipeline
        effect.session.merge(AskedRow(pipeline=file.pipeline, number=applied.number, audit=file.audit))

    def forget(self, pipeline: str, number: int, effect: Effect) -> None:
        """Asks nobody any more to review versions of a pipeline that was deleted up to `number`. Audits
        and their reports stay: they say what was found.
        """
        self._deleted[pipeline] = number
        for audit_id in rows.reviews(effect.session, pipeline, open_only=True):
            if effect.session.get_one(AuditRow, audit_id).version.pipeline_number <= number:
                effect.session.delete(effect.session.get_one(ReviewRow, audit_id))

    def begin(self, registered: ModelVersionRegistered, effect: Effect) -> str | None:
        """Starts an audit and returns its id; None where the version is audited already, for the same
        package and split give the same verdict, or its pipeline was deleted. Raises Unavailable before
        the pipeline's file came in, Tampered where the registry did not sign it, or trainer and feature
        store what it comes from.
        """
        version = registered.version
        verify_fact(registered, self._keys.trust())
        if self.gone(version):
            return None
        known = rows.newest_audit(effect.session, version.digest)
        if known is not None and known.state != rows.FAILED:
            return None
        audit_id, now = str(ULID()), self._clock()
        # None: the registry compares with the newest number then.
        asked = rows.asked(effect.session, version.pipeline, version.pipeline_number)
        effect.session.add(
            AuditRow(
                audit_id=audit_id,
                pipeline=version.pipeline,
                digest=version.digest,
                state=rows.RUNNING,
                version=version,
                started_at=now,
            )
        )
        effect.enqueue(
            JOB,
            audit_id,
            {
                "audit_id": audit_id,
                "version": version,
                "asked": asked,
                "earlier": [
                    Earlier(scores=audit.artifact("scores"), rules=rules_of(audit.gates))
                    for audit in rows.ended(effect.session, version.pipeline, now)
                ],
                "started_at": now,
                "artifacts": self._artifacts,
                "keys": str(self._keys.directory),
            },
        )
        started = AuditStarted(
            audit_id=audit_id, pipeline=version.pipeline, digest=version.digest, started_at=now
        )
        effect.publish(signed(started, self._keys.signer("audit")))
        return audit_id

    def promoted(self, event: ModelVersionPromoted, effect: Effect) -> None:
        """Keeps a promotion, for `penstock verify`. Raises Tampered where the registry did not grant it
        on evidence that opens the gates.
        """
        check_granted(event, self._keys.trust())
        effect.session.merge(PromotionRow.of(event))

    def complete(self, audit_id: str, result: Mapping[str, Any], effect: Effect) -> None:
        """Signs a job's findings. Raises Unavailable while no key signs: the result waits for it."""
        row, now = _running(effect, audit_id), self._clock()
        row.cost = effect.spent(JOB, audit_id)
        about: dict[str, Any] = {"audit_id": audit_id, "pipeline": row.pipeline, "digest": row.digest}
        verdict = Verdict(
            **about,
            at=now,
            verdict=result["verdict"],
            gates=result["gates"],
            result_digest=result["result"]["digest"],
        )
        envelope = dsse.sign(verdict, self._keys.signer("audit"))
        audit = AuditCompleted(**about, **result, evidence=envelope, completed_at=now, cost=row.cost)
        row.state, row.verdict, row.ended_at = rows.COMPLETED, audit.verdict, now
        row.gates, row.evidence = audit.gates, envelope
        row.report, row.result, row.scores = audit.report, audit.result, audit.scores
        effect.publish(audit)
        _measure(row, audit.verdict, effect)
        if may_be_waived(audit.gates) and not self.gone(row.version):
            asked = {**about, "gates": not_passed(audit.gates), "requested_at": now}
            effect.session.add(ReviewRow(**asked, state=rows.OPEN))
            effect.publish(ReviewRequested(**asked))
        log.info("audit_completed", version=row.name, verdict=audit.verdict)

    def gone(self, version: ModelVersion) -> bool:
        """Tells whether the version's pipeline was deleted: nobody decides on it any more."""
        return version.pipeline_number <= self._deleted.get(version.pipeline, 0)

    def fail(self, audit_id: str, kind: Kind, message: str, remedy: str, effect: Effect) -> None:
        """Ends an audit without evidence: nothing is known about the model, so it does not serve."""
        row, now = _running(effect, audit_id), self._clock()
        row.state, row.failure, row.remedy, row.ended_at = rows.FAILED, message, remedy, now
        row.cost = effect.spent(JOB, audit_id)
        failed = AuditFailed(
            audit_id=audit_id,
            pipeline=row.pipeline,
            digest=row.digest,
            reason=message,
            remedy=remedy,
            failed_at=now,
            cost=row.cost,
        )
        effect.publish(signed(failed, self._keys.signer("audit")))
        _measure(row, "none", effect)
        log.error("audit_failed", version=row.name, kind=kind.value, why=message)

    def decide(
        self, reference: str, effect: Effect, *, approve: bool, decided_by: str, why: str
    ) -> ReviewRow:
        """Writes a person's decision, once. It is signed: an approval as a waiver of all gates that
        did not pass.

        `decided_by` is a typed name; it proves no identity until there is access control. Raises
        Invalid, NotFound, Conflict, Refused.
        """
        decided_by, why = decided_by.strip(), why.strip()
        if not decided_by or not why:
            raise Invalid(
                f"a decision needs {'a name' if not decided_by else 'a reason'}",
                where="decided_by" if not decided_by else "why",
                remedy="Say who decides and why; both are signed and kept",
            )
        audit = rows.find_audit(effect.session, reference)
        review = _open_review(effect, audit)
        review.state = rows.APPROVED if approve else rows.REJECTED
        review.decided_by, review.why, review.decided_at = decided_by, why, self._clock()
        by: dict[str, Any] = {"decided_by": decided_by, "why": why, "at": review.decided_at}
        review.waiver = self._waiver(review, by) if approve else None
        review.rejection = None if approve else self._rejection(review, by)
        effect.publish(
            ReviewDecided(
                pipeline=review.pipeline,
                digest=review.digest,
                audit_id=review.audit_id,
                decision="approved" if approve else "rejected",
                decided_by=decided_by,
                why=why,
                waiver=review.waiver,
                decided_at=review.decided_at,
                rejection=review.rejection,
            )
        )
        log.info("review_decided", version=audit.name, decision=review.state, typed_name=decided_by)
        return review

    def _waiver(self, review: ReviewRow, by: Mapping[str, Any]) -> Envelope:
        gates = tuple(gate_name(gate) for gate in review.gates)
        return dsse.sign(Waiver(**_about(review), **by, gates=gates), self._keys.signer("audit"))

    def _rejection(self, review: ReviewRow, by: Mapping[str, Any]) -> Envelope:
        return dsse.sign(Rejection(**_about(review), **by), self._keys.signer("audit"))


def _about(review: ReviewRow) -> dict[str, Any]:
    return {"pipeline": review.pipeline, "digest": review.digest, "audit_id": review.audit_id}


def _measure(row: AuditRow, verdict: str, effect: Effect) -> None:
    took = ((row.ended_at or row.started_at) - row.started_at).total_seconds()
    attributes = {"pipeline": row.pipeline, "verdict": verdict}
    effect.after_commit(lambda: _DURATION.record(took, attributes))


def _running(effect: Effect, audit_id: str) -> AuditRow:
    row = effect.session.get(AuditRow, audit_id)
    if row is None or row.state != rows.RUNNING:
        raise Conflict("no such audit is running", where=audit_id)
    return row


def _open_review(effect: Effect, audit: AuditRow) -> ReviewRow:
    audit.check_completed()
    review = effect.session.get(ReviewRow, audit.audit_id, with_for_update=True)
    if review is None:
        blocking = [gate_name(gate) for gate in not_passed(audit.gates) if gate.on_fail == "block"]
        if not blocking:
            raise Conflict(f"every gate of {audit.name} passed; there is nothing to waive")
        raise Refused(
            f"{audit.name} did not pass {', '.join(blocking)}, and a gate with `on_fail: block` cannot be"
            " waived by anybody",
            where=", ".join(blocking),
            remedy="Change the model or its data and train again",
        )
    if review.state != rows.OPEN:
        raise Conflict(
            f"{audit.name} was {review.state} by {review.decided_by}: {review.why}",
            remedy="A decision stands; train again for another one",
        )
    return review
