"""A client's way through the platform, each step waiting until it has happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.versions import version_name
from penstock.testing.wait import until

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.client.events import Published
    from penstock.model_registry.v1 import model_registry_pb2 as registry
    from penstock.trainer.v1 import trainer_pb2 as trainer

TRAIN_WITHIN_S = 180.0
DECIDE_WITHIN_S = 120.0
SERVE_WITHIN_S = 60.0


class Journey:
    def __init__(self, client: Penstock) -> None:
        self.client = client

    def publish(
        self, pipeline: str, source: str, rows: Iterable[Mapping[str, object] | bytes], within: float = 60.0
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
        from penstock.client.runs import ENDED
        from penstock.trainer.v1 import trainer_pb2 as trainer

        now = ""

        def look() -> trainer.Run | None:
            nonlocal now
            try:
                run = self.client.runs.get(run_id)
            except Unavailable as error:
                now = str(error)
                return None
            now = f"{trainer.Run.State.Name(run.state)}, {len(run.epochs)} epochs"
            return run if run.state in ENDED else None

        found = until(look, within=within, what=lambda: f"run {run_id} has ended, now: {now}")
        assert found is not None
        return found

    def train(self, pipeline: str, overrides: Mapping[str, object] | None = None) -> registry.Version:
        """A run that completes, and its version when it is promoted or refused."""
        from penstock.trainer.v1 import trainer_pb2 as trainer

        run = self.run(pipeline, overrides)
        assert run.state == trainer.Run.STATE_COMPLETED, f"{run.failure} {run.remedy}"
        return self.decided(pipeline, run.digest)

    def decided(self, pipeline: str, digest: str, within: float = DECIDE_WITHIN_S) -> registry.Version:
        """The version, promoted or refused."""
        from penstock.model_registry.v1 import model_registry_pb2 as registry

        now = ""

        def look() -> registry.Version | None:
            nonlocal now
            try:
                version = self.client.models.get(f"{pipeline}@{digest}")
            except (NotFound, Unavailable) as error:
                now = str(error)
                return None
            now = f"{registry.Version.State.Name(version.state)} {'; '.join(version.because)}"
            return (
                version
                if version.state in (registry.Version.STATE_PROMOTED, registry.Version.STATE_REFUSED)
                else None
            )

        found = until(
            look,
            within=within,
            what=lambda: f"{version_name(pipeline, digest)} is promoted or refused, now: {now}",
        )
        assert found is not None
        return found

    def until_served(self, pipeline: str, digest: str, within: float = SERVE_WITHIN_S) -> None:
        def look() -> bool:
            try:
                return any(
                    s.pipeline == pipeline and s.digest == digest
                    for s in self.client.predictions.serving().pipelines
                )
            except Unavailable:
                return False

        until(look, within=within, what=f"{version_name(pipeline, digest)} is served")
