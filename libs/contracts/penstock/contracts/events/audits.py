"""Events of audits and of the reviews of gates that did not pass."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from penstock.contracts.events.event import Event
from penstock.contracts.events.parts import Artifact, Envelope, GateResult


class _AuditEvent(Event, topic="audits.v1", key="{digest}"):
    audit_id: str
    pipeline: str
    digest: str


class AuditStarted(_AuditEvent):
    started_at: AwareDatetime


class AuditCompleted(_AuditEvent):
    verdict: Literal["pass", "fail", "inconclusive"]
    gates: tuple[GateResult, ...]
    evidence: Envelope
    report: Artifact  # The HTML report
    result: Artifact  # The result as JSON
    # Audit rows' identities (hashed), labels and probabilities (numpy's `.npz`): what the paired
    # champion comparison reads.
    scores: Artifact | None = None
    completed_at: AwareDatetime


class AuditFailed(_AuditEvent):
    """The audit could not be carried out; nothing is known about the model."""

    reason: str
    remedy: str
    failed_at: AwareDatetime


class ReviewRequested(Event, topic="reviews.v1", key="{digest}"):
    pipeline: str
    digest: str
    audit_id: str
    gates: tuple[GateResult, ...]  # The gates that did not pass and may be waived
    requested_at: AwareDatetime


class ReviewDecided(Event, topic="reviews.v1", key="{digest}"):
    pipeline: str
    digest: str
    audit_id: str
    decision: Literal["approved", "rejected"]
    decided_by: str  # A typed name, not an identity, until there is access control
    why: str
    waiver: Envelope | None  # Signed, with an approval: who, why, which gates of which digest.
    decided_at: AwareDatetime
