"""The registry is killed when it has decided and not yet published. It needs two versions of a
pipeline, which other tests of this stack have trained.
"""

from __future__ import annotations

import pytest
from census import Served, Succession, deployment

from penstock.testing.stack import StackUnderTest

pytestmark = pytest.mark.stack


def test_killing_the_registry_between_effect_and_publish_publishes_after_all(
    served: Served, rolling: Succession, stack: StackUnderTest
) -> None:
    before = deployment(served, rolling.name)
    with stack.without("kafka"):
        assert served.client.models.roll_back(rolling.name, by="test").digest == rolling.first.digest
        stack.kill("model_registry")
    stack.ready()
    served.journey.until_served(rolling.name, rolling.first.digest)
    assert deployment(served, rolling.name).generation == before.generation + 1
