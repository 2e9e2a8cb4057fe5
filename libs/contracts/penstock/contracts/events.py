"""Control-plane events: facts in the past tense, wishes as `…Requested`.

In Kafka an event is a CloudEvent in binary mode: attributes in headers, this JSON in the value. The
data plane's messages (events, records, rejects, seen ids, predictions) are many and alike; their
shapes are in `dataplane.py`.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from penstock.contracts.errors import Invalid

TYPE_PREFIX = "io.penstock."


class Event(BaseModel):
    """One event. `extra` is ignored when reading: within v1 a newer producer may add optional fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: ClassVar[str]

    @property
    def key(self) -> str:
        """The Kafka key: what the event is about; on a compacted topic, whose whole state it holds."""
        raise NotImplementedError

    @classmethod
    def ce_type(cls) -> str:
        return f"{TYPE_PREFIX}{cls.__name__}.v1"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


# -- shared parts ----------------------------------------------------------------------------------


class Artifact(Frozen):
    """Bytes somewhere, named by what they are."""

    uri: str
    digest: str
    """`sha256:` and 64 hex digits."""
    size: int = Field(ge=0)


class Envelope(Frozen):
    """A DSSE envelope (Dead Simple Signing Envelope v1): `payload` is base64 of canonical JSON."""

    payload_type: str
    payload: str
    signatures: tuple[EnvelopeSignature, ...]


class EnvelopeSignature(Frozen):
    keyid: str
    sig: str


class Interval(Frozen):
    """An estimate with its confidence interval."""

    estimate: float
    lower: float
    upper: float


class OffsetRange(Frozen):
    """Offsets [first, last) of one partition that a training set was made of."""

    topic: str
    partition: int
    first: int
    last: int


class TrainingSet(Frozen):
    """The identity of a training set; the parts are artifacts of their own."""

    fingerprint: str
    """`sha256:` over the sorted row identities (entity, event ids, label), the splits and the
    features asked for.
    """
    pipeline: str
    train: Artifact
    validation: Artifact
    audit: Artifact
    rows: dict[str, int]
    """Rows by part: train, validation, audit."""
    offsets: tuple[OffsetRange, ...]
    created_at: AwareDatetime
    left: dict[str, int] = Field(default_factory=dict)
    """Rows by part that an erasure took out since: the parts' digests are new, the fingerprint
    still names what was trained on.
    """


class ModelVersion(Frozen):
    """A registered model: a content-addressed, signed package and where it came from."""

    pipeline: str
    digest: str
    """`sha256:…` of the package's manifest: the version's identity."""
    package: Artifact
    signature: Artifact
    """The OpenSSF model signature (a sigstore bundle made with the registry's key)."""
    keyid: str
    run_id: str
    pipeline_number: int
    training_set: TrainingSet
    metrics: dict[str, float]
    registered_at: AwareDatetime


class GateResult(Frozen):
    metric: str
    by: str | None = None
    bound: Literal["at_least", "at_most"]
    limit: float
    judge: Literal["lower_bound", "upper_bound", "estimate"]
    value: Interval | None
    """None where it could not be computed; `reason` says why."""
    verdict: Literal["pass", "fail", "inconclusive"]
    on_fail: Literal["block", "review"]
    reason: str
    """One sentence for people."""


# -- pipelines.v1 (compacted) ----------------------------------------------------------------------


class PipelineApplied(Event):
    topic: ClassVar = "pipelines.v1"

    pipeline: str
    number: int = Field(ge=1)
    spec: dict[str, JsonValue]
    """The pipeline file as data; `Pipeline.model_validate(spec)` gives it typed."""
    text: str
    """The file as it was applied."""
    digest: str
    applied_at: AwareDatetime
    applied_by: str

    @property
    def key(self) -> str:
        return self.pipeline


# -- training-runs.v1 ------------------------------------------------------------------------------


class _RunEvent(Event):
    topic: ClassVar = "training-runs.v1"

    run_id: str
    pipeline: str

    @property
    def key(self) -> str:
        return self.run_id


RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
"""Ids of runs: an id names its working folder and its training set too."""


class TrainingRunRequested(_RunEvent):
    """Wish for a run, under an id that its publisher chose and `check` holds to `RUN_ID`."""

    pipeline_number: int
    reason: Literal["requested", "new_labels"]
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """Dotted keys of the pipeline file: {"trainer.epochs": 5}."""
    min_offsets: tuple[PartitionOffset, ...] = ()
    """The training set waits until the feature store holds everything below these."""
    requested_at: AwareDatetime
    requested_by: str

    def check(self) -> None:
        """Raises Invalid. All that handle it refuse the same wishes: one that the trainer turns
        away must be under way nowhere.
        """
        if not RUN_ID.fullmatch(self.run_id):
            raise Invalid(
                f"{self.run_id!r} cannot name a run",
                where="run_id",
                remedy="Use up to 32 letters, digits, `-` and `_`",
            )


class PartitionOffset(Frozen):
    topic: str
    partition: int
    offset: int


class TrainingRunStarted(_RunEvent):
    pipeline_number: int
    training_set: TrainingSet
    started_at: AwareDatetime


class TrainingRunProgressed(_RunEvent):
    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float
    validation_metric: float
    metric: str
    learning_rate: float
    elapsed_s: float


class TrainingRunCompleted(_RunEvent):
    pipeline_number: int
    training_set: TrainingSet
    package: Artifact
    digest: str
    metrics: dict[str, float]
    completed_at: AwareDatetime


class TrainingRunFailed(_RunEvent):
    kind: str
    """A kind of `errors.Kind`."""
    reason: str
    remedy: str
    """Advice: what the user can change."""
    failed_at: AwareDatetime


class TrainingRunCanceled(_RunEvent):
    canceled_at: AwareDatetime
    canceled_by: str


# -- model-versions.v1 (compacted) -----------------------------------------------------------------


class ModelVersionRegistered(Event):
    topic: ClassVar = "model-versions.v1"

    version: ModelVersion

    @property
    def key(self) -> str:
        return f"{self.version.pipeline}@{self.version.digest}"


class ModelVersionRefused(Event):
    """Evidence or the champion keeps it from serving. A later promotion needs a waiver or another try."""

    topic: ClassVar = "model-versions.v1"

    version: ModelVersion
    because: tuple[str, ...]
    refused_at: AwareDatetime

    @property
    def key(self) -> str:
        return f"{self.version.pipeline}@{self.version.digest}"


class ModelVersionPromoted(Event):
    """The pipeline's one version that may serve, with all a verifier needs."""

    topic: ClassVar = "model-versions.v1"

    version: ModelVersion
    generation: int = Field(ge=1)
    """Rises with every promotion and rollback of the pipeline; Triton's version number."""
    evidence: tuple[Envelope, ...]
    """The signed verdict, and the signed waiver where a gate was waived."""
    promotion: Envelope
    """Signed by the registry over pipeline, digest, generation."""
    reason: Literal["promoted", "rolled_back"]
    promoted_at: AwareDatetime
    promoted_by: str

    @property
    def key(self) -> str:
        return self.version.pipeline


# -- audits.v1 -------------------------------------------------------------------------------------


class _AuditEvent(Event):
    topic: ClassVar = "audits.v1"

    audit_id: str
    pipeline: str
    digest: str

    @property
    def key(self) -> str:
        return self.digest


class AuditStarted(_AuditEvent):
    started_at: AwareDatetime


class AuditCompleted(_AuditEvent):
    verdict: Literal["pass", "fail", "inconclusive"]
    gates: tuple[GateResult, ...]
    evidence: Envelope
    report: Artifact
    """The HTML report."""
    result: Artifact
    """The result as JSON."""
    scores: Artifact | None = None
    """Audit rows' identities (hashed), labels and probabilities (numpy's `.npz`): what the paired
    champion comparison reads.
    """
    completed_at: AwareDatetime


class AuditFailed(_AuditEvent):
    """The audit could not be carried out; nothing is known about the model."""

    reason: str
    remedy: str
    failed_at: AwareDatetime


# -- reviews.v1 ------------------------------------------------------------------------------------


class ReviewRequested(Event):
    topic: ClassVar = "reviews.v1"

    pipeline: str
    digest: str
    audit_id: str
    gates: tuple[GateResult, ...]
    """The gates that did not pass and may be waived."""
    requested_at: AwareDatetime

    @property
    def key(self) -> str:
        return self.digest


class ReviewDecided(Event):
    topic: ClassVar = "reviews.v1"

    pipeline: str
    digest: str
    audit_id: str
    decision: Literal["approved", "rejected"]
    decided_by: str
    """A typed name, not an identity, until there is access control."""
    why: str
    waiver: Envelope | None
    """Signed, with an approval: who, why, which gates of which digest."""
    decided_at: AwareDatetime

    @property
    def key(self) -> str:
        return self.digest


# -- deployments.v1 (compacted) --------------------------------------------------------------------


class Served(Frozen):
    digest: str
    generation: int
    since: AwareDatetime


class RefusedDeployment(Frozen):
    digest: str
    generation: int
    reason: str
    at: AwareDatetime


class DeploymentChanged(Event):
    """The version that the pipeline serves now, and one that it would not serve, with the reason."""

    topic: ClassVar = "deployments.v1"

    pipeline: str
    serving: Served | None
    refused: RefusedDeployment | None
    changed_at: AwareDatetime

    @property
    def key(self) -> str:
        return self.pipeline


EVENTS: dict[str, type[Event]] = {
    event.ce_type(): event
    for event in (
        PipelineApplied,
        TrainingRunRequested,
        TrainingRunStarted,
        TrainingRunProgressed,
        TrainingRunCompleted,
        TrainingRunFailed,
        TrainingRunCanceled,
        ModelVersionRegistered,
        ModelVersionRefused,
        ModelVersionPromoted,
        AuditStarted,
        AuditCompleted,
        AuditFailed,
        ReviewRequested,
        ReviewDecided,
        DeploymentChanged,
    )
}
"""Event classes by CloudEvents type."""


def decode(ce_type: str, value: bytes) -> Event | None:
    """The event, or None for a type this release does not know. Raises pydantic.ValidationError."""
    event = EVENTS.get(ce_type)
    return event.model_validate_json(value) if event else None


def encode(event: Event) -> bytes:
    return event.model_dump_json().encode()
