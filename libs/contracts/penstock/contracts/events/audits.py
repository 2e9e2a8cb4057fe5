"""Events of audits and of the reviews of gates that did not pass."""

from __future__ import annotations

from typing import Literal

from penstock.contracts.events.event import AuditId, Digest, Event, Moment, Person, PipelineName
from penstock.contracts.events.parts import Artifact, Cost, Envelope, GateResult


class _AuditEvent(Event, topic="audits.v1", key="{digest}"):
    audit_id: AuditId
    pipeline: PipelineName
    digest: Digest


class AuditStarted(_AuditEvent):
    started_at: Moment
    evidence: Envelope | None = None  # Signed by the audit over all of this


class AuditCompleted(_AuditEvent):
    verdict: Literal["pass", "fail", "inconclusive"]
    gates: tuple[GateResult, ...]
    evidence: Envelope
    report: Artifact  # The HTML report
    result: Artifact  # The result as JSON
    # Audit rows' identities (hashed), labels and probabilities (numpy's `.npz`): what the paired
    # champion comparison reads.
    scores: Artifact | None = None
    completed_at: Moment
    cost: Cost | None = None  # Not in the verdict, whose reader in the release before knows no such key


class AuditFailed(_AuditEvent):
    """The audit could not be carried out; nothing is known about the model."""

    reason: str
    remedy: str
    failed_at: Moment
    cost: Cost | None = None
    evidence: Envelope | None = None  # Signed by the audit over all of this


class ReviewRequested(Event, topic="reviews.v1", key="{digest}"):
    pipeline: PipelineName
    digest: Digest
    audit_id: AuditId
    gates: tuple[GateResult, ...]  # The gates that did not pass and may be waived
    requested_at: Moment


class ReviewDecided(Event, topic="reviews.v1", key="{digest}"):
    pipeline: PipelineName
    digest: Digest
    audit_id: AuditId
    decision: Literal["approved", "rejected"]
    decided_by: Person  # A typed name, not an identity, until there is access control
    why: str
    waiver: Envelope | None  # Signed, with an approval: who, why, which gates of which digest.
    decided_at: Moment
    # Signed by the audit, with a rejection; without it, as before this field was, nothing follows.
    rejection: Envelope | None = None
