"""Parts that several events share: artifacts, signed envelopes, training sets, versions, gates."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ConfigDict, Field

from penstock.contracts.errors import Invalid
from penstock.contracts.events.event import Count, Digest, Frozen, Moment, Number, Person, PipelineName, RunId

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
"""Ids of runs and studies: an id names a working folder and a training set too."""


def check_id(name: str, where: str) -> None:
    """Raises Invalid where `name` cannot be the id of a run, a study or a training set."""
    if not ID.fullmatch(name):
        raise Invalid(
            f"{name!r} cannot name a {where.rpartition('.')[2].removesuffix('_id').replace('_', ' ')}",
            where=where,
            remedy="Use up to 32 letters, digits, `-` and `_`",
        )


class Artifact(Frozen):
    """Bytes somewhere, named by what they are."""

    uri: str
    digest: Digest  # `sha256:` and 64 hex digits
    size: Count


class Envelope(Frozen):
    """A DSSE envelope (Dead Simple Signing Envelope v1): `payload` is base64 of canonical JSON."""

    payload_type: str
    payload: str
    signatures: tuple[EnvelopeSignature, ...]


class EnvelopeSignature(Frozen):
    keyid: str
    sig: str


class Interval(Frozen):
    """An estimate with its confidence interval; not finite where no measure is."""

    model_config = ConfigDict(allow_inf_nan=True)

    estimate: float
    lower: float
    upper: float


class Cost(Frozen):
    """Use of a job's process and its children, over all its attempts; of attempts whose service
    died with them, as of some seconds before.
    """

    processor_s: float = Field(default=0.0, ge=0)  # Processor time, user and system
    gpu_s: float = Field(default=0.0, ge=0)  # Time for which GPUs were held, times their number
    peak_memory: Count = 0  # Bytes resident at once, of the largest process
    bytes_read: Count = 0  # By read calls, from disk or page cache; not from sockets, not mapped

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            processor_s=round(self.processor_s + other.processor_s, 3),
            gpu_s=round(self.gpu_s + other.gpu_s, 3),
            peak_memory=max(self.peak_memory, other.peak_memory),
            bytes_read=self.bytes_read + other.bytes_read,
        )


class Imported(Frozen):
    """Origin of a model that was made elsewhere. Whether it was trained on the audit's rows is not
    known.
    """

    graph: Artifact  # The file as it came; its digest is the original's
    name: str = Field(max_length=256)  # The file's name, as it was told
    by: Person


class StudyReference(Frozen):
    """The trial of a tuning study that a run repeats on the study's training set, and how it was found."""

    study_id: RunId
    trial: Number
    weights: Digest  # Of the trial's weights: the run's must be the same
    trials: Number  # Trials of the study that ended
    looks: Count  # Evaluations on the validation rows that the choice was made from
    rule: str = Field(max_length=500)  # How the trial was chosen, in words


class PartitionOffset(Frozen):
    topic: str
    partition: Number
    offset: Count


class OffsetRange(Frozen):
    """Offsets [first, last) of one partition that a training set was made of."""

    topic: str
    partition: Number
    first: Count
    last: Count  # Where the next range begins, as Kafka's end of a partition: itself not in this one


class TrainingSet(Frozen):
    """The identity of a training set; the parts are artifacts of their own."""

    # `sha256:` over the sorted row identities (entity, event ids, label), the splits and the
    # features asked for.
    fingerprint: Digest
    pipeline: PipelineName
    train: Artifact
    validation: Artifact
    audit: Artifact
    rows: dict[str, Count]  # Rows by part: train, validation, audit.
    offsets: tuple[OffsetRange, ...]
    created_at: Moment
    # Rows by part that an erasure took out since: the parts' digests are new, the fingerprint still
    # names what was trained on.
    left: dict[str, Count] = Field(default_factory=dict)
    # Signed by the feature store over all of this; without it nobody trains on it.
    evidence: Envelope | None = None


class ModelVersion(Frozen):
    """A registered model: a content-addressed, signed package and where it came from."""

    pipeline: PipelineName
    digest: Digest  # `sha256:…` of the package's manifest: the version's identity.
    package: Artifact
    # The OpenSSF model signature (a sigstore bundle made with the registry's key).
    signature: Artifact
    keyid: str
    run_id: RunId
    pipeline_number: Number
    training_set: TrainingSet
    metrics: dict[str, float]
    registered_at: Moment
    # The trainer's signed statement that its run made this; without it nothing is audited.
    run: Envelope | None = None
    # The registry's signed statement of the pipeline file that the run was made by.
    applied: Envelope | None = None
    cost: Cost | None = None  # Of the run
    imported: Imported | None = None
    study: StudyReference | None = None


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
