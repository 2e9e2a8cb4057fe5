"""A study in containers: its trials share the tuner's memory and its Kafka user's rights, and the model
that it finds serves.
"""

from __future__ import annotations

import time

import pytest
from census import Served, poor_text

from penstock.client.studies import ENDED
from penstock.contracts.errors import PenstockError
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.testing.compose import ComposeUnderTest
from penstock.testing.wait import until
from penstock.tuner.v1 import tuner_pb2 as tuner

pytestmark = pytest.mark.compose

WITHIN_S = 240


def begun(served: Served, name: str) -> tuner.Study:
    client = served.client
    client.pipelines.apply(poor_text(name), by="test")
    served.journey.publish(name, "people", served.events[:1_500])
    return client.studies.create(name, after=client.events.end_offsets(name), by="test")


def ends_in_a_version_that_serves(served: Served, study: tuner.Study) -> None:
    client, journey, name = served.client, served.journey, study.pipeline

    def ended() -> tuner.Study | None:
        found = client.studies.get(study.study_id)
        return found if found.state in ENDED else None

    found = until(ended, within=WITHIN_S, what="the study has ended", despite=PenstockError)
    assert found is not None
    assert found.state == tuner.Study.STATE_COMPLETED, found.failure
    assert [trial.state for trial in found.trials] == [tuner.Trial.STATE_COMPLETE] * 3
    assert found.best > 0
    until(lambda: client.runs.list(name), what="the trainer has heard of the run")
    run = journey.ended(found.run_id)
    version = journey.decided(name, run.digest)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    journey.until_served(name, run.digest)


def test_a_study_ends_in_a_version_that_serves(served_by_compose: Served) -> None:
    ends_in_a_version_that_serves(served_by_compose, begun(served_by_compose, "tuned"))


@pytest.mark.slow
def test_a_study_goes_on_when_its_database_is_back(
    served_by_compose: Served, compose: ComposeUnderTest
) -> None:
    study = begun(served_by_compose, "tuned-without-database")
    until(
        lambda: served_by_compose.client.studies.get(study.study_id).trials,
        within=WITHIN_S,
        what="a trial has begun",
    )
    with compose.without("postgres"):
        time.sleep(10)  # how long it is away is the test
    compose.ready(within=WITHIN_S)
    ends_in_a_version_that_serves(served_by_compose, study)
