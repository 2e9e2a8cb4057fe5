"""Facts that events announce, each signed by who may state it, as a statement of all that the event
says: `signed` makes it, `verify_fact` holds the event to it before it has any effect. A review is
stated by the waiver of an approval, or by a `Rejection`: `verify_review`.

The envelope is optional on the wire, for events of a release without it; here it is required.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Tampered
from penstock.contracts.events import PipelineApplied, ReviewDecided
from penstock.packages.dsse import Statement, sign, verify
from penstock.packages.evidence import Waiver
from penstock.packages.keys import Role, Signer, Trust
from penstock.packages.manifest import canonical


class AppliedPipeline(Statement):
    """A pipeline file as it was applied; `digest` is that of its text."""

    payload_type: ClassVar = "application/vnd.penstock.pipeline.v1+json"
    role: ClassVar[Role] = "registry"

    number: int = Field(ge=1)
    spec: str  # Digest of the file as data, in canonical JSON
    applied_by: str


class Rejection(Statement):
    """Decision of a person that gates which did not pass are not waived."""

    payload_type: ClassVar = "application/vnd.penstock.rejection.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    decided_by: str = Field(min_length=1)
    why: str = Field(min_length=1)


def signed(event: PipelineApplied, signer: Signer) -> PipelineApplied:
    """The event with its statement, signed."""
    return event.model_copy(update={"evidence": sign(_stated_by(event), signer)})


def verify_fact(event: PipelineApplied, trust: Trust) -> None:
    """Raises Tampered where the event is not signed by who may state it, or says other than what
    was signed.
    """
    name = type(event).__name__
    if event.evidence is None:
        raise Tampered(f"this {name} is not signed, so it has no effect", where=event.key)
    stated = _stated_by(event)
    if verify(event.evidence, trust, type(stated)) != stated:
        raise Tampered(f"this {name} says other than what was signed", where=event.key)


def verify_review(event: ReviewDecided, trust: Trust) -> None:
    """Raises Tampered where the decision is not signed by the audit, or is another than was signed."""
    approved = event.decision == "approved"
    envelope = event.waiver if approved else event.rejection
    if envelope is None:
        raise Tampered("this review is not signed, so it has no effect", where=event.digest)
    stated = verify(envelope, trust, Waiver) if approved else verify(envelope, trust, Rejection)
    said = ("pipeline", "digest", "audit_id", "decided_by", "why")
    if any(getattr(stated, name) != getattr(event, name) for name in said) or stated.at != event.decided_at:
        raise Tampered("this review says other than what was signed", where=event.digest)


def _stated_by(event: PipelineApplied) -> AppliedPipeline:
    if event.digest != digest_of(event.text.encode()):
        raise Tampered("the digest is not that of the text", where=event.key)
    return AppliedPipeline(
        pipeline=event.pipeline,
        digest=event.digest,
        at=event.applied_at,
        number=event.number,
        spec=digest_of(canonical(event.spec)),
        applied_by=event.applied_by,
    )
