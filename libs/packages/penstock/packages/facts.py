"""Facts that events announce, each signed by who may state it, as a statement of all that the event
says: `signed` makes it, `verify_fact` holds the event to it before it has any effect. A review is
stated by the waiver of an approval, or by a `Rejection`: `verify_review`.

The envelope is optional on the wire, for events of a release without it; here it is required.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, cast

from pydantic import AwareDatetime, Field, JsonValue

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Tampered
from penstock.contracts.events import (
    Artifact,
    AuditFailed,
    AuditStarted,
    Cost,
    Envelope,
    Imported,
    ModelVersion,
    ModelVersionPromoted,
    ModelVersionRefused,
    ModelVersionRegistered,
    OffsetRange,
    PipelineApplied,
    PipelineDeleted,
    ReviewDecided,
    StudyReference,
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunStarted,
    TrainingSet,
)
from penstock.packages.dsse import Statement, envelope_digest, sign, verify
from penstock.packages.evidence import Waiver, admissible
from penstock.packages.keys import Role, Signer, Trust
from penstock.packages.manifest import canonical


class AppliedPipeline(Statement):
    """A pipeline file as it was applied; `digest` is that of its text."""

    payload_type: ClassVar = "application/vnd.penstock.pipeline.v1+json"
    role: ClassVar[Role] = "registry"

    number: int = Field(ge=1)
    spec: str  # Digest of the file as data, in canonical JSON
    applied_by: str
    deleted_before: int = 0


class DeletedPipeline(Statement):
    """A pipeline that is no more; `digest` is that of its name."""

    payload_type: ClassVar = "application/vnd.penstock.pipeline-deleted.v1+json"
    role: ClassVar[Role] = "registry"

    number: int = Field(ge=1)
    deleted_by: str


class MadeTrainingSet(Statement):
    """A training set and its parts; `digest` is its fingerprint."""

    payload_type: ClassVar = "application/vnd.penstock.training-set.v1+json"
    role: ClassVar[Role] = "feature_store"

    train: Artifact
    validation: Artifact
    audit: Artifact
    rows: dict[str, int]
    left: dict[str, int]
    offsets: tuple[OffsetRange, ...]


class _OfARun(Statement):
    """A run; `digest` is its training set's fingerprint."""

    role: ClassVar[Role] = "trainer"

    run_id: str
    number: int  # Of the pipeline
    training_set: str  # Digest of the feature store's statement about it


class StartedRun(_OfARun):
    """A run that trains."""

    payload_type: ClassVar = "application/vnd.penstock.run-started.v1+json"

    chosen: dict[str, JsonValue] = Field(default_factory=dict)
    chosen_because: str = ""


class CompletedRun(_OfARun):
    """A run that made a model package; `digest` is the package's."""

    payload_type: ClassVar = "application/vnd.penstock.run-completed.v1+json"

    package: Artifact
    metrics: dict[str, float]
    cost: Cost | None = None
    imported: Imported | None = None
    study: StudyReference | None = None


class FailedRun(Statement):
    """A run that ended without a package; `digest` is that of its id."""

    payload_type: ClassVar = "application/vnd.penstock.run-failed.v1+json"
    role: ClassVar[Role] = "trainer"

    run_id: str
    kind: str
    reason: str
    remedy: str
    cost: Cost | None = None


class CanceledRun(Statement):
    """A run that a person ended; `digest` is that of its id."""

    payload_type: ClassVar = "application/vnd.penstock.run-canceled.v1+json"
    role: ClassVar[Role] = "trainer"

    run_id: str
    canceled_by: str
    cost: Cost | None = None


class RegisteredVersion(Statement):
    """A version with the registry's signature over its package; who made it is `run`'s to say."""

    payload_type: ClassVar = "application/vnd.penstock.version-registered.v1+json"
    role: ClassVar[Role] = "registry"

    package: Artifact
    signature: Artifact
    keyid: str
    registered_at: AwareDatetime
    run: str  # Digest of the trainer's statement, of the release before empty
    applied: str  # Digest of the registry's statement of the pipeline file, or empty


class RefusedVersion(RegisteredVersion):
    """A version that may not serve, and why."""

    payload_type: ClassVar = "application/vnd.penstock.version-refused.v1+json"

    because: tuple[str, ...]


class PromotedVersion(RegisteredVersion):
    """A promotion with who asked for it: the grant is of a release that left them open."""

    payload_type: ClassVar = "application/vnd.penstock.version-promoted.v1+json"

    generation: int = Field(ge=1)
    reason: str
    promoted_by: str
    grant: str  # Digest of the signed `PromotionGrant`


class StartedAudit(Statement):
    """An audit that began."""

    payload_type: ClassVar = "application/vnd.penstock.audit-started.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str


class FailedAudit(StartedAudit):
    """An audit that could not be carried out."""

    payload_type: ClassVar = "application/vnd.penstock.audit-failed.v1+json"

    reason: str
    remedy: str
    cost: Cost | None = None


class Rejection(Statement):
    """Decision of a person that gates which did not pass are not waived."""

    payload_type: ClassVar = "application/vnd.penstock.rejection.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    decided_by: str = Field(min_length=1)
    why: str = Field(min_length=1)


_OfAVersion = ModelVersionRegistered | ModelVersionRefused | ModelVersionPromoted
Fact = (
    PipelineApplied
    | PipelineDeleted
    | TrainingSet
    | TrainingRunStarted
    | TrainingRunCompleted
    | TrainingRunFailed
    | TrainingRunCanceled
    | AuditStarted
    | AuditFailed
    | _OfAVersion
)
FactT = TypeVar("FactT", bound=Fact)
StatementT = TypeVar("StatementT", bound=Statement)


def signed(fact: FactT, signer: Signer) -> FactT:
    """The fact with its statement, signed. A run's training set must be signed already."""
    return cast(FactT, fact.model_copy(update={_envelope_in(fact): sign(_stated_by(fact), signer)}))


def verify_fact(fact: Fact, trust: Trust) -> Statement:
    """Returns what was signed. Raises Tampered where the fact is not signed by who may state it, or
    says other than what was signed; a run's training set and a version's run, too. Versions of a
    release before, which came of no signed run, may be refused and promoted, not registered.
    """
    if isinstance(fact, TrainingRunStarted | TrainingRunCompleted):
        verify_fact(fact.training_set, trust)
    if isinstance(fact, _OfAVersion) and (fact.version.run or isinstance(fact, ModelVersionRegistered)):
        verify_version(fact.version, trust)
    name, stated = type(fact).__name__, _stated_by(fact)
    envelope: Envelope | None = getattr(fact, _envelope_in(fact))
    if envelope is None:
        raise Tampered(f"this {name} is not signed, so it has no effect", where=stated.pipeline)
    if verify(envelope, trust, type(stated)) != stated:
        raise Tampered(f"this {name} says other than what was signed", where=stated.pipeline)
    return stated


def verify_version(version: ModelVersion, trust: Trust) -> CompletedRun:
    """Verifies that a run made the version, of a training set of the feature store, as the trainer
    and the feature store signed. Returns the trainer's statement. Raises Tampered.
    """
    if version.run is None:
        raise Tampered("no signed run made this version", where=version.digest)
    verify_fact(version.training_set, trust)
    stated = verify(version.run, trust, CompletedRun)
    if stated != _completed(version, stated.at):
        raise Tampered("this version is another than its run's signed statement", where=version.digest)
    return stated


def check_granted(promotion: ModelVersionPromoted, trust: Trust) -> None:
    """Raises Tampered where the registry did not state the promotion, or grant it on evidence that
    opens the gates. Whoever loads the package asks `admissible` besides, with what is on disk.
    """
    verify_fact(promotion, trust)
    if wrong := admissible(promotion, trust, promotion.version.digest):
        raise Tampered("; ".join(wrong), where=promotion.version.pipeline)


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


def _envelope_in(fact: Fact) -> str:
    """Names the field that holds the statement."""
    return "statement" if isinstance(fact, ModelVersionPromoted) else "evidence"


def _stated_by(fact: Fact) -> Statement:
    match fact:
        case PipelineApplied():
            if fact.digest != digest_of(fact.text.encode()):
                raise Tampered("the digest is not that of the text", where=fact.pipeline)
            return _state(AppliedPipeline, fact, fact.applied_at, spec=digest_of(canonical(fact.spec)))
        case PipelineDeleted():
            digest = digest_of(fact.pipeline.encode())
            return _state(DeletedPipeline, fact, fact.deleted_at, digest=digest)
        case TrainingSet():
            return _state(MadeTrainingSet, fact, fact.created_at, digest=fact.fingerprint)
        case TrainingRunStarted(training_set=made):
            return _state(
                StartedRun,
                fact,
                fact.started_at,
                digest=made.fingerprint,
                number=fact.pipeline_number,
                training_set=_statement_about(made),
            )
        case TrainingRunCompleted():
            return _completed(fact, fact.completed_at)
        case TrainingRunFailed():
            return _state(FailedRun, fact, fact.failed_at, digest=digest_of(fact.run_id.encode()))
        case TrainingRunCanceled():
            return _state(CanceledRun, fact, fact.canceled_at, digest=digest_of(fact.run_id.encode()))
        case AuditStarted():
            return _state(StartedAudit, fact, fact.started_at)
        case AuditFailed():
            return _state(FailedAudit, fact, fact.failed_at)
        case ModelVersionRegistered(version=version):
            return _state(RegisteredVersion, version, version.registered_at, **_proof(version))
        case ModelVersionRefused(version=version):
            proof = _proof(version)
            return _state(RefusedVersion, version, fact.refused_at, **proof, because=fact.because)
        case ModelVersionPromoted(version=version):
            return _state(
                PromotedVersion,
                version,
                fact.promoted_at,
                **_proof(version),
                generation=fact.generation,
                reason=fact.reason,
                promoted_by=fact.promoted_by,
                grant=envelope_digest(fact.promotion),
            )


def _completed(made: TrainingRunCompleted | ModelVersion, at: AwareDatetime) -> CompletedRun:
    about = _statement_about(made.training_set)
    return _state(CompletedRun, made, at, number=made.pipeline_number, training_set=about)


def _state(kind: type[StatementT], fact: Fact | ModelVersion, at: AwareDatetime, **said: Any) -> StatementT:
    """Makes a statement of what is `said`, and else of the fact's fields by their names."""
    said |= {name: getattr(fact, name) for name in kind.model_fields.keys() - said.keys() - {"at"}}
    return kind(at=at, **said)


def _proof(version: ModelVersion) -> dict[str, str]:
    proof = {"run": version.run, "applied": version.applied}
    return {name: envelope_digest(envelope) if envelope else "" for name, envelope in proof.items()}


def _statement_about(made: TrainingSet) -> str:
    if made.evidence is None:
        raise Tampered("this training set is not signed", where=made.pipeline)
    return envelope_digest(made.evidence)
