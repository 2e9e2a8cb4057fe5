"""Parts that several events share: artifacts, signed envelopes, training sets, versions, gates."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from penstock.contracts.events.event import Frozen


class Artifact(Frozen):
    """Bytes somewhere, named by what they are."""

    uri: str
    digest: str  # `sha256:` and 64 hex digits
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

    # `sha256:` over the sorted row identities (entity, event ids, label), the splits and the
    # features asked for.
    fingerprint: str
    pipeline: str
    train: Artifact
    validation: Artifact
    audit: Artifact
    rows: dict[str, int]  # Rows by part: train, validation, audit.
    offsets: tuple[OffsetRange, ...]
    created_at: AwareDatetime
    # Rows by part that an erasure took out since: the parts' digests are new, the fingerprint still
    # names what was trained on.
    left: dict[str, int] = Field(default_factory=dict)


class ModelVersion(Frozen):
    """A registered model: a content-addressed, signed package and where it came from."""

    pipeline: str
    digest: str  # `sha256:…` of the package's manifest: the version's identity.
    package: Artifact
    # The OpenSSF model signature (a sigstore bundle made with the registry's key).
    signature: Artifact
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
    value: Interval | None  # None where it could not be computed; `reason` says why
    verdict: Literal["pass", "fail", "inconclusive"]
    on_fail: Literal["block", "review"]
    reason: str  # One sentence for people
