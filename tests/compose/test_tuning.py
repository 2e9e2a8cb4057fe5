"""A study in containers: its trials share the tuner's memory and its Kafka user's rights, and the model
that it finds serves.
"""

from __future__ import annotations

import pytest
from census import Served, poor_text

from penstock.client.studies import ENDED
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.wait import until
from penstock.tuner.v1 import tuner_pb2 as tuner

pytestmark = pytest.mark.compose

NAME = "tuned"
WITHIN_S = 240


def test_a_study_ends_in_a_version_that_serves(served_by_compose: Served) -> None:
    client, journey = served_by_compose.client, served_by_compose.journey
    client.pipelines.apply(poor_text(NAME), by="test")
    journey.publish(NAME, "people", served_by_compose.events[:1_500])
    begun = client.studies.create(NAME, after=client.events.end_offsets(NAME), by="test")

    def ended() -> tuner.Study | None:
        study = client.studies.get(begun.study_id)
        return study if study.state in ENDED else None

    found = until(ended, within=WITHIN_S, what="the study has ended")
    assert found is not None
    assert found.state == tuner.Study.STATE_COMPLETED, found.failure
    assert [trial.state for trial in found.trials] == [tuner.Trial.STATE_COMPLETE] * 3
    assert found.best > 0
    until(lambda: client.runs.list(NAME), what="the trainer has heard of the run")
    run = journey.ended(found.run_id)
    version = journey.decided(NAME, run.digest)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    journey.until_served(NAME, run.digest)
