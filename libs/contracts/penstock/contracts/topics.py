"""The topic catalogue: every topic is data, with its producers, consumers, key, shape and settings.

A topic enters with the service that serves it. A test compares this table with what the services
really subscribe and publish.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from penstock.contracts.pipeline import Pipeline

MESSAGE_BYTES = 900_000
"""Most bytes of a message of our own: Kafka takes 1 MB, key, headers and all, unless it was told
otherwise.
"""
DAY_MS = 86_400_000
DEAD_LETTERS = ".dlq"  # the end of the name of each topic of dead letters


@dataclass(frozen=True)
class Topic:
    name: str  # Name, with `<p>` and `<source>` where there is one per pipeline or source
    owner: str  # The service that publishes every one of `messages`, or `users`
    consumers: tuple[str, ...]
    key: str
    about: str
    messages: tuple[str, ...]  # Event classes, or one data-plane shape
    # Other services that publish here; of `messages`, only the requests (`…Requested`).
    requesters: tuple[str, ...] = ()
    # Services that publish here what others made where they could not reach Kafka.
    forwarders: tuple[str, ...] = ()
    partitions: int = 1
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = -1

    @property
    def producers(self) -> dict[str, tuple[str, ...]]:
        """Messages that each service publishes here; the owner first."""
        requests = tuple(name for name in self.messages if name.endswith("Requested"))
        forwarded = dict.fromkeys(self.forwarders, self.messages)
        return {self.owner: self.messages} | dict.fromkeys(self.requesters, requests) | forwarded

    @property
    def config(self) -> dict[str, str]:
        kept = {"retention.ms": str(self.retention_ms)} if self.cleanup == "delete" else {}
        return {"cleanup.policy": self.cleanup, "message.timestamp.type": "CreateTime", **kept}


SHARED: tuple[Topic, ...] = (
    Topic(
        "pipelines.v1",
        owner="model_registry",
        consumers=("ingest", "feature_store", "ethics_audit", "inference", "edge_gateway", "model_registry"),
        key="pipeline",
        about="Each pipeline as it was last applied, or that it was deleted.",
        messages=("PipelineApplied", "PipelineDeleted"),
        cleanup="compact",
    ),
    Topic(
        "training-runs.v1",
        owner="trainer",
        requesters=("feature_store", "tuner"),
        consumers=("trainer", "model_registry", "feature_store"),
        key="run id",
        about=(
            "Requests for training runs (from the trainer's own API, the feature store's trigger and the"
            " tuner, with a study's choice) and what became of them."
        ),
        messages=(
            "TrainingRunRequested",
            "TrainingRunStarted",
            "TrainingRunProgressed",
            "TrainingRunCompleted",
            "TrainingRunFailed",
            "TrainingRunCanceled",
        ),
    ),
    Topic(
        "tuning-studies.v1",
        owner="tuner",
        consumers=("tuner", "trainer", "users"),
        key="study id",
        about="Requests for tuning studies, the end of each trial, and what became of the studies.",
        messages=(
            "TuningStudyRequested",
            "TuningStudyStarted",
            "TuningTrialEnded",
            "TuningStudyCompleted",
            "TuningStudyFailed",
            "TuningStudyCanceled",
        ),
    ),
    Topic(
        "model-versions.v1",
        owner="model_registry",
        consumers=("ethics_audit", "inference", "edge_gateway", "model_registry"),
        key="pipeline@digest; a promotion: pipeline",
        about="Each version's state, and each pipeline's promoted version.",
        messages=("ModelVersionRegistered", "ModelVersionRefused", "ModelVersionPromoted"),
        cleanup="compact",
    ),
    Topic(
        "audits.v1",
        owner="ethics_audit",
        consumers=("model_registry",),
        key="digest",
        about="Signed verdicts.",
        messages=("AuditStarted", "AuditCompleted", "AuditFailed"),
    ),
    Topic(
        "reviews.v1",
        owner="ethics_audit",
        consumers=("model_registry",),
        key="digest",
        about="People's decisions on gates that may be waived.",
        messages=("ReviewRequested", "ReviewDecided"),
    ),
    Topic(
        "deployments.v1",
        owner="inference",
        consumers=("users",),
        key="pipeline",
        about="What each pipeline's door serves, or why not.",
        messages=("DeploymentChanged",),
        cleanup="compact",
    ),
    Topic(
        "edge-positions.v1",
        owner="edge_gateway",
        consumers=(),
        key="site/lane",
        about="How far each site's events and predictions were forwarded.",
        messages=("SitePosition",),
        cleanup="compact",
    ),
    Topic(
        "edge-sites.v1",
        owner="edge_gateway",
        consumers=("users",),
        key="site",
        about="Each site: who it is, what it serves, what it has still to forward.",
        messages=("SiteReported",),
        cleanup="compact",
    ),
)

PER_SOURCE: tuple[Topic, ...] = (
    Topic(
        "<p>.<source>.events.v1",
        owner="users",
        forwarders=("edge_gateway",),
        consumers=("ingest",),
        key="the entity's key",
        about="Raw events: flat JSON objects from any Kafka client.",
        messages=("Event",),
    ),
    Topic(
        "<p>.<source>.records.v1",
        owner="ingest",
        consumers=("feature_store",),
        key="the entity's key",
        about="Accepted events, typed.",
        messages=("Record",),
    ),
    Topic(
        "<p>.<source>.rejects.v1",
        owner="ingest",
        consumers=("users",),
        key="the event's key",
        about="Events that broke a rule, with reason and original bytes.",
        messages=("Reject",),
    ),
    Topic(
        "<p>.<source>.seen.v1",
        owner="ingest",
        consumers=("ingest",),
        key="none",
        about=(
            "Ids accepted within the deduplication window: 8 bytes each; partition i for events partition i."
        ),
        messages=("SeenIds",),
    ),
)

PER_PIPELINE: tuple[Topic, ...] = (
    Topic(
        "<p>.predictions.v1",
        owner="inference",
        forwarders=("edge_gateway",),
        consumers=("users",),
        key="prediction id",
        about="Each prediction with its inputs, outputs and version.",
        messages=("Prediction",),
    ),
)

CATALOGUE: tuple[Topic, ...] = (*SHARED, *PER_SOURCE, *PER_PIPELINE)


def source_topic(kind: Literal["events", "records", "rejects", "seen"], pipeline: str, source: str) -> str:
    return f"{pipeline}.{source}.{kind}.v1"


def predictions_topic(pipeline: str) -> str:
    return f"{pipeline}.predictions.v1"


def dead_letter_topic(topic: str, group: str) -> str:
    return f"{topic}.{group}{DEAD_LETTERS}"


def pipeline_topics(pipeline: Pipeline) -> tuple[Topic, ...]:
    """The topics that one pipeline needs, by their real names, with the partitions and retention
    that its file asks for.
    """
    named = pipeline.pipeline
    of_sources = [
        replace(
            topic,
            name=topic.name.replace("<p>", named).replace("<source>", name),
            partitions=source.partitions,
            retention_ms=_ms(source.deduplicate if ".seen." in topic.name else source.retention),
        )
        for name, source in pipeline.sources.items()
        for topic in PER_SOURCE
    ]
    kept = _ms(pipeline.serving.record_retention)
    of_pipeline = [
        replace(topic, name=topic.name.replace("<p>", named), retention_ms=kept) for topic in PER_PIPELINE
    ]
    return (*of_sources, *of_pipeline)


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
