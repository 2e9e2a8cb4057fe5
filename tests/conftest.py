"""`census` and `compatibility` are modules beside the tests; `served` is one pipeline for all tests of a session."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "contract")]

from census import PIPELINE, ROWS, Served, people, pipeline_text, spoiled  # noqa: E402  found through the path above

from penstock.model_registry.v1 import model_registry_pb2 as registry  # noqa: E402
from penstock.testing.journey import Journey  # noqa: E402
from penstock.testing.stack import StackUnderTest  # noqa: E402


@pytest.fixture(scope="session")
def served(stack: StackUnderTest) -> Served:
    """Published, trained, audited, promoted and served."""
    journey = Journey(stack.client)
    events = people()[:ROWS]
    bad, expected = spoiled(events)
    journey.client.pipelines.apply(pipeline_text(), by="test")
    journey.publish(PIPELINE, "people", [*events, *bad])
    version = journey.train(PIPELINE)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    journey.until_served(PIPELINE, version.digest)
    return Served(journey, events, expected, version)
