"""Facts that events announce, each signed by who may state it, as a statement of all that the event
says: `signed` makes it, `verify_fact` holds the event to it before it has any effect. A review is
stated by the waiver of an approval, or by a `Rejection`: `verify_review`.

The envelope is optional on the wire, for events of a release without it; here it is required.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from pydantic import AwareDatetime, Field

from penstock.contracts.digests import digest_of
from penstock.contracts.errors import Tampered
from penstock.contracts.events import (
    Artifact,
    ModelVersion,
    OffsetRange,
    PipelineApplied,
    ReviewDecided,
    TrainingRunCompleted,
    TrainingRunStarted,
    TrainingSet,
)
from penstock.packages.dsse import Statement, envelope_digest, sign, verify
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


class StartedRun(Statement):
    """A run that trains; `digest` is its training set's fingerprint."""

    payload_type: ClassVar = "application/vnd.penstock.run-started.v1+json"
    role: ClassVar[Role] = "trainer"

    run_id: str
    number: int  # Of the pipeline
    training_set: str  # Digest of the feature store's statement about it


class CompletedRun(Statement):
    """A run that made a model package."""

    payload_type: ClassVar = "application/vnd.penstock.run-completed.v1+json"
    role: ClassVar[Role] = "trainer"

    run_id: str
    number: int  # Of the pipeline
    training_set: str  # Digest of the feature store's statement about it
    package: Artifact
    metrics: dict[str, float]


class Rejection(Statement):
    """Decision of a person that gates which did not pass are not waived."""

    payload_type: ClassVar = "application/vnd.penstock.rejection.v1+json"
    role: ClassVar[Role] = "audit"

    audit_id: str
    decided_by: str = Field(min_length=1)
    why: str = Field(min_length=1)


Fact = PipelineApplied | TrainingSet | TrainingRunStarted | TrainingRunCompleted
FactT = TypeVar("FactT", PipelineApplied, TrainingSet, TrainingRunStarted, TrainingRunCompleted)


def signed(fact: FactT, signer: Signer) -> FactT:
    """The fact with its statement, signed. A run's training set must be signed already."""
    return fact.model_copy(update={"evidence": sign(_stated_by(fact), signer)})


def verify_fact(fact: Fact, trust: Trust) -> Statement:
    """Returns what was signed. Raises Tampered where the fact is not signed by who may state it, or
    says other than what was signed; a run's training set too.
    """
    name = type(fact).__name__
    if isinstance(fact, TrainingRunStarted | TrainingRunCompleted):
        verify_fact(fact.training_set, trust)
    if fact.evidence is None:
        raise Tampered(f"this {name} is not signed, so it has no effect", where=fact.pipeline)
    stated = _stated_by(fact)
    if verify(fact.evidence, trust, type(stated)) != stated:
        raise Tampered(f"this {name} says other than what was signed", where=fact.pipeline)
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


def _stated_by(fact: Fact) -> Statement:
    match fact:
        case PipelineApplied():
            return _applied(fact)
        case TrainingSet():
            return MadeTrainingSet(
                pipeline=fact.pipeline,
                digest=fact.fingerprint,
                at=fact.created_at,
                train=fact.train,
                validation=fact.validation,
                audit=fact.audit,
                rows=fact.rows,
                left=fact.left,
                offsets=fact.offsets,
            )
        case TrainingRunStarted():
            return StartedRun(
                pipeline=fact.pipeline,
                digest=fact.training_set.fingerprint,
                at=fact.started_at,
                run_id=fact.run_id,
                number=fact.pipeline_number,
                training_set=_statement_about(fact.training_set),
            )
        case TrainingRunCompleted():
            return _completed(fact, fact.completed_at)


def _applied(event: PipelineApplied) -> AppliedPipeline:
    if event.digest != digest_of(event.text.encode()):
        raise Tampered("the digest is not that of the text", where=event.pipeline)
    return AppliedPipeline(
        pipeline=event.pipeline,
        digest=event.digest,
        at=event.applied_at,
        number=event.number,
        spec=digest_of(canonical(event.spec)),
        applied_by=event.applied_by,
    )


def _completed(made: TrainingRunCompleted | ModelVersion, at: AwareDatetime) -> CompletedRun:
    return CompletedRun(
        pipeline=made.pipeline,
        digest=made.digest,
        at=at,
        run_id=made.run_id,
        number=made.pipeline_number,
        training_set=_statement_about(made.training_set),
        package=made.package,
        metrics=made.metrics,
    )


def _statement_about(made: TrainingSet) -> str:
    if made.evidence is None:
        raise Tampered("this training set is not signed", where=made.pipeline)
    return envelope_digest(made.evidence)
