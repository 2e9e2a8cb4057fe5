"""Events of pipelines, of their versions and of what their doors serve: each topic is compacted."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field, JsonValue

from penstock.contracts.events.event import Event, Frozen
from penstock.contracts.events.parts import Envelope, ModelVersion


class PipelineApplied(Event, topic="pipelines.v1", key="{pipeline}"):
    pipeline: str
    number: int = Field(ge=1)
    # The pipeline file as data; `Pipeline.model_validate(spec)` gives it typed.
    spec: dict[str, JsonValue]
    text: str  # The file as it was applied
    digest: str
    applied_at: AwareDatetime
    applied_by: str


class ModelVersionRegistered(Event, topic="model-versions.v1", key="{version.pipeline}@{version.digest}"):
    version: ModelVersion


class ModelVersionRefused(Event, topic="model-versions.v1", key="{version.pipeline}@{version.digest}"):
    """Evidence or the champion keeps it from serving. A later promotion needs a waiver or another try."""

    version: ModelVersion
    because: tuple[str, ...]
    refused_at: AwareDatetime


class ModelVersionPromoted(Event, topic="model-versions.v1", key="{version.pipeline}"):
    """The pipeline's one version that may serve, with all a verifier needs."""

    version: ModelVersion
    # Rises with every promotion and rollback of the pipeline; Triton's version number.
    generation: int = Field(ge=1)
    # The signed verdict, and the signed waiver where a gate was waived.
    evidence: tuple[Envelope, ...]
    promotion: Envelope  # Signed by the registry over pipeline, digest, generation
    reason: Literal["promoted", "rolled_back"]
    promoted_at: AwareDatetime
    promoted_by: str


class Served(Frozen):
    digest: str
    generation: int
    since: AwareDatetime


class RefusedDeployment(Frozen):
    digest: str
    generation: int
    reason: str
    at: AwareDatetime


class DeploymentChanged(Event, topic="deployments.v1", key="{pipeline}"):
    """The version that the pipeline serves now, and one that it would not serve, with the reason."""

    pipeline: str
    serving: Served | None
    refused: RefusedDeployment | None
    changed_at: AwareDatetime
