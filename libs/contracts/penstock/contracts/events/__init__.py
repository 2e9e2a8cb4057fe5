"""Control-plane events: facts in the past tense, wishes as `…Requested`.

In Kafka an event is a CloudEvent in binary mode: attributes in headers, this JSON in the value. The
data plane's messages (events, records, rejects, seen ids, predictions) are many and alike; their
shapes are in `dataplane.py`.
"""

from penstock.contracts.events.audits import (
    AuditCompleted,
    AuditFailed,
    AuditStarted,
    ReviewDecided,
    ReviewRequested,
)
from penstock.contracts.events.event import Count, Event
from penstock.contracts.events.parts import (
    Artifact,
    Cost,
    Envelope,
    EnvelopeSignature,
    GateResult,
    Imported,
    Interval,
    ModelVersion,
    OffsetRange,
    PartitionOffset,
    StudyReference,
    TrainingSet,
)
from penstock.contracts.events.runs import (
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunProgressed,
    TrainingRunRequested,
    TrainingRunStarted,
)
from penstock.contracts.events.sites import SiteReported
from penstock.contracts.events.studies import (
    TuningStudyCanceled,
    TuningStudyCompleted,
    TuningStudyFailed,
    TuningStudyRequested,
    TuningStudyStarted,
    TuningTrialEnded,
)
from penstock.contracts.events.versions import (
    DeploymentChanged,
    ModelVersionPromoted,
    ModelVersionRefused,
    ModelVersionRegistered,
    PipelineApplied,
    PipelineDeleted,
    RefusedDeployment,
    Served,
)

__all__ = [
    "EVENTS",
    "Artifact",
    "AuditCompleted",
    "AuditFailed",
    "AuditStarted",
    "Cost",
    "Count",
    "DeploymentChanged",
    "Envelope",
    "EnvelopeSignature",
    "Event",
    "GateResult",
    "Imported",
    "Interval",
    "ModelVersion",
    "ModelVersionPromoted",
    "ModelVersionRefused",
    "ModelVersionRegistered",
    "OffsetRange",
    "PartitionOffset",
    "PipelineApplied",
    "PipelineDeleted",
    "RefusedDeployment",
    "ReviewDecided",
    "ReviewRequested",
    "Served",
    "SiteReported",
    "StudyReference",
    "TrainingRunCanceled",
    "TrainingRunCompleted",
    "TrainingRunFailed",
    "TrainingRunProgressed",
    "TrainingRunRequested",
    "TrainingRunStarted",
    "TrainingSet",
    "TuningStudyCanceled",
    "TuningStudyCompleted",
    "TuningStudyFailed",
    "TuningStudyRequested",
    "TuningStudyStarted",
    "TuningTrialEnded",
    "decode",
    "encode",
]

EVENTS: dict[str, type[Event]] = {
    event.ce_type(): event
    for event in tuple(globals().values())
    if isinstance(event, type) and issubclass(event, Event) and event is not Event
}
"""Event classes by CloudEvents type."""


def decode(ce_type: str, value: bytes) -> Event | None:
    """The event, or None for a type this release does not know. Raises pydantic.ValidationError."""
    event = EVENTS.get(ce_type)
    return event.model_validate_json(value) if event else None


def encode(event: Event) -> bytes:
    return event.model_dump_json().encode()
