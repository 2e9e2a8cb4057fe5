"""A client's way through the platform, each step waiting until it has happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.client import Penstock
from penstock.client.events import Published
from penstock.client.runs import ENDED
from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.versions import version_name
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.wait import until
from penstock.trainer.v1 import trainer_pb2 as trainer

READ_WITHIN_S = 120.0
TRAIN_WITHIN_S = 300.0
DECIDE_WITHIN_S = 120.0
SERVE_WITHIN_S = 120.0
DECIDED = (registry.Version.STATE_PROMOTED, registry.Version.STATE_REFUSED)


class Journey:
    def __init__(self, client: Penstock) -> None:
        self.client = client

    def publish(
        self,
        pipeline: str,
        source: str,
        rows: Iterable[Mapping[str, object] | bytes],
        within: float = READ_WITHIN_S,
    ) -> Published:
        """Publishes, and waits until ingest has read it all."""
        before = self.events(pipeline, source)
        published = self.client.events.publish(pipeline, source, rows)
        until(
            lambda: self.events(pipeline, source) >= before + published.events,
            within=within,
            what=f"ingest has read {published.events} events of {pipeline}.{source}",
        )
        return published

    def events(self, pipeline: str, source: str) -> int:
        """Number of events that ingest has read; none while it does not know the pipeline yet, or is away."""
        try:
            return self.client.events.counts(pipeline, source).events
        except (NotFound, Unavailable):
            return 0

    def run(self, pipeline: str, overrides: Mapping[str, object] | None = None) -> trainer.Run:
        """A training run on all that was published, when it has ended."""
        after = self.client.events.end_offsets(pipeline)
        return self.ended(
            self.client.runs.create(pipeline, overrides=overrides, after=after, by="test").run_id
        )

    def ended(self, run_id: str, within: float = TRAIN_WITHIN_S) -> trainer.Run:
        return until(
            lambda: self.client.runs.get(run_id),
            accept=lambda run: run.state in ENDED,
            despite=Unavailable,
            within=within,
            what=f"run {run_id} has ended",
        )

    def train(self, pipeline: str, overrides: Mapping[str, object] | None = None) -> registry.Version:
        """A run that completes, and its version when it is promoted or refused."""
        run = self.run(pipeline, overrides)
        assert run.state == trainer.Run.STATE_COMPLETED, f"{run.failure} {run.remedy}"
        return self.decided(pipeline, run.digest)

    def decided(self, pipeline: str, digest: str, within: float = DECIDE_WITHIN_S) -> registry.Version:
        """The version, promoted or refused."""
        return until(
            lambda: self.client.models.get(f"{pipeline}@{digest}"),
            accept=lambda version: version.state in DECIDED,
            despite=(NotFound, Unavailable),
            within=within,
            what=f"{version_name(pipeline, digest)} is promoted or refused",
        )

    def until_served(self, pipeline: str, digest: str, within: float = SERVE_WITHIN_S) -> None:
        until(
            lambda: self.client.predictions.serving().pipelines,
            accept=lambda serving: any((one.pipeline, one.digest) == (pipeline, digest) for one in serving),
            despite=Unavailable,
            within=within,
            what=f"{version_name(pipeline, digest)} is served",
        )
