"""Evidence: signed statements about a model version, and the one rule that says whether they let it
serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from penstock.contracts.errors import Tampered
from penstock.contracts.events import AuditCompleted, Envelope, GateResult, ModelVersionPromoted
from penstock.contracts.pipeline import Gate, Pipeline
from penstock.packages.dsse import Statement, envelope_digest, verify
from penstock.packages.keys import Role, Trust


class Verdict(Statement):
    """Result of an audit."""

    payload_type: ClassVar = "application/vnd.penstock.verdict.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    # `fail` if any gate failed, else `inconclusive` if any is, else `pass`; a verdict that its
    # gates contradict lets nothing serve.
    verdict: Literal["pass", "fail", "inconclusive"]
    gates: tuple[GateResult, ...]
    result_digest: str  # Digest of the audit's JSON result


class Waiver(Statement):
    """Decision of a person to let a version pass in spite of gates; a typed name is not an identity
    until there is access control.
    """

    payload_type: ClassVar = "application/vnd.penstock.waiver.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    gates: tuple[str, ...] = Field(min_length=1)  # `gate_name` of each gate that is waived
    decided_by: str = Field(min_length=1)
    why: str = Field(min_length=1)


class PromotionGrant(Statement):
    """Permission of the registry: one version may serve, as one generation, on this evidence."""

    payload_type: ClassVar = "application/vnd.penstock.promotion.v1+json"
    role: ClassVar[Role] = "registry"

    generation: int = Field(ge=1)
    evidence: tuple[str, ...] = Field(min_length=1)  # `envelope_digest` of each piece of evidence


def verdict_of(audit: AuditCompleted, trust: Trust) -> Verdict:
    """Verifies the signed verdict behind the event and returns it. Raises Tampered where it is
    forged, or the event differs from it.
    """
    verdict = verify(audit.evidence, trust, Verdict)
    said = ("pipeline", "digest", "audit_id", "verdict", "gates")
    if any(getattr(verdict, name) != getattr(audit, name) for name in said):
        raise Tampered("the audit says other than its signed verdict", where=audit.audit_id)
    if verdict.result_digest != audit.result.digest:
        raise Tampered(
            "the audit's result is not the one that its verdict was signed for", where=audit.audit_id
        )
    return verdict


def gate_name(gate: GateResult | Gate) -> str:
    """Name of a gate in a waiver: `equalized_odds_difference by sex at_most 0.15`."""
    by = f" by {gate.by}" if gate.by else ""
    return f"{gate.metric}{by} {gate.bound} {gate.limit:g}"


def overall(gates: Iterable[GateResult]) -> Literal["pass", "fail", "inconclusive"]:
    """Fail if any gate fails, else inconclusive if any is, else pass. No gates: pass, for nothing
    was asked.
    """
    verdicts = {gate.verdict for gate in gates}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts else "pass"


def not_passed(gates: Iterable[GateResult]) -> tuple[GateResult, ...]:
    return tuple(gate for gate in gates if gate.verdict != "pass")


def may_be_waived(gates: Iterable[GateResult]) -> bool:
    """Returns true where a person may decide: something did not pass, and none of it blocks."""
    closed = not_passed(gates)
    return bool(closed) and all(gate.on_fail == "review" for gate in closed)


def closed_gates(verdict: Verdict, waiver: Waiver | None) -> list[str]:
    """Lists the gates that neither passed nor are waived and waivable, a sentence each. Empty: the
    version may serve.

    Signatures are verified by the caller; that both speak of the same audit is checked here.
    """
    if verdict.verdict != overall(verdict.gates):
        return [f"the verdict says {verdict.verdict}, but its gates say {overall(verdict.gates)}"]
    if waiver and (waiver.pipeline, waiver.digest, waiver.audit_id) != (
        verdict.pipeline,
        verdict.digest,
        verdict.audit_id,
    ):
        return ["the waiver is for another audit"]
    waived = waiver.gates if waiver else ()
    never = "and a gate with `on_fail: block` cannot be waived"
    return [
        f"{name}: {gate.verdict}, {never if name in waived else gate.reason}"
        for name, gate in ((gate_name(gate), gate) for gate in not_passed(verdict.gates))
        if name not in waived or gate.on_fail == "block"
    ]


def nothing_judged(verdict: Verdict, asked: Pipeline) -> list[str]:
    """A sentence where no gate was judged and the pipeline file does not allow that; else empty."""
    if verdict.gates or asked.serves_unjudged:
        return []
    if asked.audit.gates:
        return ["the audit judged none of the gates that the pipeline file asks for"]
    return [
        "nothing was judged: the pipeline file has no gates. Add some under `audit.gates`, or allow it by"
        " `promotion: {without_gates: allowed}`; apply the file and train again"
    ]


@dataclass(frozen=True)
class Known:
    """Newest promotion of a pipeline that a verifier has accepted."""

    generation: int
    digest: str


def admissible(
    promotion: ModelVersionPromoted,
    trust: Trust,
    package_digest: str,
    known: Known | None = None,
    asked: Pipeline | None = None,
) -> list[str]:
    """Lists the reasons why the promoted version may not be loaded; empty when it may. The registry
    asks before it promotes, a server before it loads.

    Checked: the promotion is signed by the registry and says what the event says; its generation is
    above the last one known (or it is that very promotion again); the package at hand, the event,
    the promotion and the evidence name one digest and one pipeline; the evidence is what the
    promotion was granted on, is signed by the audit, and opens every gate.

    `package_digest` is the one that `open_package` found on disk, never one from an event; `asked` the
    package's pipeline file, once it is at hand: it says whether a version may serve without gates.
    Raises NoKey while there is no key to judge by.
    """
    version = promotion.version
    subject = (version.pipeline, version.digest)
    reasons = []
    if package_digest != version.digest:
        reasons.append(f"the package is {package_digest}, promoted was {version.digest}")
    try:
        reasons += _ungranted(promotion, verify(promotion.promotion, trust, PromotionGrant))
    except Tampered as error:
        reasons.append(error.message)
    again = known == Known(promotion.generation, version.digest)
    if known and not again and promotion.generation <= known.generation:
        reasons.append(
            f"generation {promotion.generation} does not rise above {known.generation}, the last one known"
        )
    return reasons + _unopened(promotion.evidence, trust, subject, asked)


def _ungranted(promotion: ModelVersionPromoted, grant: PromotionGrant) -> list[str]:
    version = promotion.version
    checks = (
        (
            (grant.pipeline, grant.digest) != (version.pipeline, version.digest),
            f"the promotion was signed for {grant.pipeline}@{grant.digest}, not for"
            f" {version.pipeline}@{version.digest}",
        ),
        (
            grant.generation != promotion.generation,
            f"the promotion was signed as generation {grant.generation}, not {promotion.generation}",
        ),
        (
            grant.evidence != tuple(map(envelope_digest, promotion.evidence)),
            "the promotion was signed on other evidence",
        ),
    )
    return [reason for wrong, reason in checks if wrong]


def _unopened(
    evidence: Sequence[Envelope], trust: Trust, subject: tuple[str, str], asked: Pipeline | None
) -> list[str]:
    try:
        verdict, waiver = read_evidence(evidence, trust)
    except Tampered as error:
        return [error.message]
    strangers = [
        f"the {type(statement).__name__.lower()} is about {statement.pipeline}@{statement.digest}, not about"
        f" {subject[0]}@{subject[1]}"
        for statement in (verdict, waiver)
        if statement and (statement.pipeline, statement.digest) != subject
    ]
    unjudged = nothing_judged(verdict, asked) if asked else []
    return strangers or closed_gates(verdict, waiver) or unjudged


def read_evidence(evidence: Sequence[Envelope], trust: Trust) -> tuple[Verdict, Waiver | None]:
    """Verifies and returns the verdict, and the waiver if there is one. Raises Tampered for
    anything but one verdict and at most one waiver.
    """
    verdicts = [envelope for envelope in evidence if envelope.payload_type == Verdict.payload_type]
    waivers = [envelope for envelope in evidence if envelope.payload_type == Waiver.payload_type]
    if len(verdicts) != 1 or len(waivers) > 1 or len(evidence) != len(verdicts) + len(waivers):
        raise Tampered("evidence is one signed verdict and at most one signed waiver")
    return verify(verdicts[0], trust, Verdict), verify(waivers[0], trust, Waiver) if waivers else None
