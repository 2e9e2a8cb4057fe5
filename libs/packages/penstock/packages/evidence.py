"""Evidence: signed statements that open the gate, and the one rule that says whether they do.

A statement travels as a DSSE v1 envelope (https://github.com/secure-systems-lab/dsse, protocol.md):
the signature covers the payload type and the payload's very bytes (PAE), so a verdict cannot be
passed off as a waiver, and nothing is parsed before it is verified. Every statement names pipeline
and digest, so none can be used for another model.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import PenstockError, Tampered
from penstock.contracts.events import (
    AuditCompleted,
    Envelope,
    EnvelopeSignature,
    GateResult,
    ModelVersionPromoted,
)
from penstock.packages.format import canonical
from penstock.packages.keys import Role, Signer, Trust


class Statement(BaseModel):
    """What is signed. An unknown field is an error: a verifier must not pass over what it does not
    understand.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    payload_type: ClassVar[str]
    role: ClassVar[Role]
    """Whose key must have signed it."""

    pipeline: str
    digest: str
    """Of the model package."""
    at: AwareDatetime


class Verdict(Statement):
    """What an audit found."""

    payload_type: ClassVar = "application/vnd.penstock.verdict.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    verdict: Literal["pass", "fail", "inconclusive"]
    """`fail` if any gate failed, else `inconclusive` if any is, else `pass`; a verdict that its
    gates contradict opens nothing.
    """
    gates: tuple[GateResult, ...]
    result_digest: str
    """`sha256:…` of the audit's JSON result."""


class Waiver(Statement):
    """A person's decision to let a version pass in spite of gates; a typed name is not an identity
    until there is access control.
    """

    payload_type: ClassVar = "application/vnd.penstock.waiver.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    gates: tuple[str, ...] = Field(min_length=1)
    """`gate_name` of each gate that is waived."""
    decided_by: str = Field(min_length=1)
    why: str = Field(min_length=1)


class PromotionGrant(Statement):
    """The registry lets one version serve, as one generation, on this evidence."""

    payload_type: ClassVar = "application/vnd.penstock.promotion.v1+json"
    role: ClassVar[Role] = "registry"

    generation: int = Field(ge=1)
    evidence: tuple[str, ...] = Field(min_length=1)
    """`envelope_digest` of each piece of evidence."""


StatementT = TypeVar("StatementT", bound=Statement)


# -- DSSE ------------------------------------------------------------------------------------------


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: Statement, signer: Signer) -> Envelope:
    """Raises ValueError when the signer's role is not the statement's: no verifier would accept it."""
    if signer.role != statement.role:
        raise ValueError(f"a {type(statement).__name__} is signed by {statement.role}, not by {signer.role}")
    payload = canonical(statement.model_dump(mode="json"))
    signature = signer.sign(pae(statement.payload_type, payload))
    return Envelope(
        payload_type=statement.payload_type,
        payload=b64encode(payload).decode(),
        signatures=(EnvelopeSignature(keyid=signer.keyid, sig=b64encode(signature).decode()),),
    )


def verify(envelope: Envelope, trust: Trust, kind: type[StatementT]) -> StatementT:
    """The statement, if `envelope` holds one of this kind and one of its signatures is of a trusted
    key of the kind's role.

    Raises Tampered that says which of these does not hold.
    """
    name = kind.__name__.lower()
    if envelope.payload_type != kind.payload_type:
        raise Tampered(f"{envelope.payload_type} is no {name}")
    payload = _decode(envelope.payload, name)
    signer = _signed_by(envelope, pae(envelope.payload_type, payload), trust, kind.role, name)
    try:
        statement = kind.model_validate_json(payload)
    except ValidationError as error:
        raise Tampered(f"the {name} cannot be read: {error.errors()[0]['msg']}") from error
    trust.key(signer, kind.role, statement.at)
    return statement


def verdict_of(audit: AuditCompleted, trust: Trust) -> Verdict:
    """The signed verdict behind the event. Raises Tampered where it is forged, or the event says
    other than what was signed.
    """
    verdict = verify(audit.evidence, trust, Verdict)
    signed = (
        verdict.pipeline,
        verdict.digest,
        verdict.audit_id,
        verdict.verdict,
        verdict.gates,
        verdict.result_digest,
    )
    if signed != (
        audit.pipeline,
        audit.digest,
        audit.audit_id,
        audit.verdict,
        audit.gates,
        audit.result.digest,
    ):
        raise Tampered("the audit says other than its signed verdict", where=audit.audit_id)
    return verdict


def _signed_by(envelope: Envelope, message: bytes, trust: Trust, role: Role, name: str) -> str:
    reasons = []
    for signature in envelope.signatures:
        try:
            if trust.key(signature.keyid, role).verifies(message, _decode(signature.sig, "signature")):
                return signature.keyid
            reasons.append(f"the signature of key {signature.keyid} does not hold")
        except Tampered as error:
            reasons.append(error.message)
    raise Tampered(f"the {name} is not validly signed: {'; '.join(reasons) or 'there is no signature'}")


def _decode(text: str, what: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise Tampered(f"the {what} is not base64") from error


def envelope_digest(envelope: Envelope) -> str:
    """`sha256:…` over what the envelope states (its PAE), not over the signature: ECDSA signatures
    can be rewritten, statements cannot.
    """
    signed = pae(envelope.payload_type, _decode(envelope.payload, "payload"))
    return digest_of(signed)


# -- the rule --------------------------------------------------------------------------------------


def gate_name(gate: GateResult) -> str:
    """`equalized_odds_difference by sex at_most 0.15`: how a waiver names a gate."""
    by = f" by {gate.by}" if gate.by else ""
    return f"{gate.metric}{by} {gate.bound} {gate.limit:g}"


def closed_gates(verdict: Verdict, waiver: Waiver | None) -> list[str]:
    """Why the gate stays shut: one sentence for each gate that neither passed nor is waived and
    waivable. Empty: it is open.

    Signatures are the caller's business; that verdict and waiver speak of the same audit is checked here.
    """
    closed = [gate for gate in verdict.gates if gate.verdict != "pass"]
    expected = (
        "pass"
        if not closed
        else "inconclusive"
        if all(gate.verdict == "inconclusive" for gate in closed)
        else "fail"
    )
    if verdict.verdict != expected:
        return [f"the verdict says {verdict.verdict}, but its gates say {expected}"]
    waived: frozenset[str] = frozenset()
    if waiver is not None:
        if (waiver.pipeline, waiver.digest, waiver.audit_id) != (
            verdict.pipeline,
            verdict.digest,
            verdict.audit_id,
        ):
            return ["the waiver is for another audit"]
        waived = frozenset(waiver.gates)
    return [sentence for gate in closed if (sentence := _closed(gate, gate_name(gate) in waived))]


def _closed(gate: GateResult, waived: bool) -> str | None:
    if not waived:
        return f"{gate_name(gate)}: {gate.verdict}, {gate.reason}"
    if gate.on_fail == "block":
        return f"{gate_name(gate)}: {gate.verdict}, and a gate with `on_fail: block` cannot be waived"
    return None


@dataclass(frozen=True)
class Known:
    """The newest promotion of a pipeline that a verifier has accepted."""

    generation: int
    digest: str


def admissible(
    promotion: ModelVersionPromoted, trust: Trust, package_digest: str, known: Known | None = None
) -> list[str]:
    """Why the promoted version may not be loaded; empty when it may. The registry asks before it
    promotes, who serves before they load.

    Checked: the promotion is signed by the registry and says what the event says; its generation is
    above the last one known (or it is that very promotion again); the package at hand, the event,
    the promotion and the evidence name one digest and one pipeline; the evidence is what the
    promotion was granted on, is signed by the audit, and opens every gate.

    `package_digest` is what `open_package` found on disk, never what an event says.
    """
    version = promotion.version
    subject = (version.pipeline, version.digest)
    reasons = []
    if package_digest != version.digest:
        reasons.append(f"the package is {package_digest}, promoted was {version.digest}")
    try:
        grant = verify(promotion.promotion, trust, PromotionGrant)
        if (grant.pipeline, grant.digest) != subject:
            reasons.append(
                f"the promotion was signed for {grant.pipeline}@{grant.digest}, not for"
                f" {version.pipeline}@{version.digest}"
            )
        if grant.generation != promotion.generation:
            reasons.append(
                f"the promotion was signed as generation {grant.generation}, not {promotion.generation}"
            )
        if grant.evidence != tuple(envelope_digest(envelope) for envelope in promotion.evidence):
            reasons.append("the promotion was signed on other evidence")
    except Tampered as error:
        reasons.append(error.message)
    if known is not None and not _rises(promotion, known):
        reasons.append(
            f"generation {promotion.generation} does not rise above {known.generation}, the last one known"
        )
    return reasons + _unopened(promotion.evidence, trust, subject)


def _rises(promotion: ModelVersionPromoted, known: Known) -> bool:
    again = (promotion.generation, promotion.version.digest) == (known.generation, known.digest)
    return again or promotion.generation > known.generation


def _unopened(evidence: Sequence[Envelope], trust: Trust, subject: tuple[str, str]) -> list[str]:
    try:
        verdict, waiver = read_evidence(evidence, trust)
    except PenstockError as error:
        return [error.message]
    for statement in (verdict, waiver):
        if statement is not None and (statement.pipeline, statement.digest) != subject:
            name = type(statement).__name__.lower()
            return [
                f"the {name} is about {statement.pipeline}@{statement.digest}, not about"
                f" {subject[0]}@{subject[1]}"
            ]
    return closed_gates(verdict, waiver)


def read_evidence(evidence: Sequence[Envelope], trust: Trust) -> tuple[Verdict, Waiver | None]:
    """The verified verdict, and the waiver if there is one. Raises Tampered for anything but one
    verdict and at most one waiver.
    """
    verdicts = [envelope for envelope in evidence if envelope.payload_type == Verdict.payload_type]
    waivers = [envelope for envelope in evidence if envelope.payload_type == Waiver.payload_type]
    if len(verdicts) != 1 or len(waivers) > 1 or len(evidence) != len(verdicts) + len(waivers):
        raise Tampered("evidence is one signed verdict and at most one signed waiver")
    return verify(verdicts[0], trust, Verdict), verify(waivers[0], trust, Waiver) if waivers else None
