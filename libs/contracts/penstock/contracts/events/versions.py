"""Events of pipelines, of their versions and of what their doors serve: each topic is compacted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from penstock.contracts.errors import Invalid
from penstock.contracts.events.event import Digest, Event, Frozen, Moment, Number, Person, PipelineName
from penstock.contracts.events.parts import Envelope, ModelVersion
from penstock.contracts.pipeline import Pipeline


class PipelineApplied(Event, topic="pipelines.v1", key="{pipeline}"):
    pipeline: PipelineName
    number: Number = Field(ge=1)
    # The pipeline file as data; `Pipeline.model_validate(spec)` gives it typed.
    spec: dict[str, JsonValue]
    text: str  # The file as it was applied
    digest: Digest
    applied_at: Moment
    applied_by: Person
    # Number up to which the pipeline was deleted before it was applied anew.
    deleted_before: Number = 0
    # Signed by the registry over all of this; without it, as before this field was, nothing follows.
    evidence: Envelope | None = None

    def declared(self) -> Pipeline:
        """The pipeline that the file declares; keys of a newer release are passed over. Raises Invalid
        for a file of another, and ValidationError.
        """
        pipeline = Pipeline.model_validate(self.spec, extra="ignore")
        if pipeline.pipeline != self.pipeline:
            raise Invalid(f"the file declares pipeline {pipeline.pipeline!r}", where=self.pipeline)
        return pipeline


class PipelineDeleted(Event, topic="pipelines.v1", key="{pipeline}"):
    """A pipeline that never served is no more, with all that was made of its files up to `number`."""

    pipeline: PipelineName
    number: Number = Field(ge=1)
    deleted_at: Moment
    deleted_by: Person
    evidence: Envelope | None = None  # Signed by the registry; without it nothing is deleted


class ModelVersionRegistered(Event, topic="model-versions.v1", key="{version.pipeline}@{version.digest}"):
    version: ModelVersion
    evidence: Envelope | None = None  # Signed by the registry; without it nothing is audited


class ModelVersionRefused(Event, topic="model-versions.v1", key="{version.pipeline}@{version.digest}"):
    """Evidence or the champion keeps it from serving. A later promotion needs a waiver or another try."""

    version: ModelVersion
    because: tuple[str, ...]
    refused_at: Moment
    evidence: Envelope | None = None  # Signed by the registry


class ModelVersionPromoted(Event, topic="model-versions.v1", key="{version.pipeline}"):
    """The pipeline's one version that may serve, with all a verifier needs."""

    version: ModelVersion
    # Rises with every promotion and rollback of the pipeline; Triton's version number.
    generation: Number = Field(ge=1)
    # The signed verdict, and the signed waiver where a gate was waived.
    evidence: tuple[Envelope, ...]
    promotion: Envelope  # Signed by the registry over pipeline, digest, generation
    reason: Literal["promoted", "rolled_back"]
    promoted_at: Moment
    promoted_by: Person
    # Signed by the registry over all of this, the grant in `promotion` with who asked for it.
    statement: Envelope | None = None


class Served(Frozen):
    digest: Digest
    generation: Number
    since: Moment


class RefusedDeployment(Frozen):
    digest: Digest
    generation: Number
    reason: str
    at: Moment


class DeploymentChanged(Event, topic="deployments.v1", key="{pipeline}"):
    """The version that the pipeline serves now, and one that it would not serve, with the reason."""

    pipeline: PipelineName
    serving: Served | None
    refused: RefusedDeployment | None
    changed_at: Moment
