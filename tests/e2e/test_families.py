"""A family that is no network, from events to a served, audited version."""

from __future__ import annotations

import numpy as np
import pytest
from census import Served, asking, pipeline_text

from penstock.model_registry.v1 import model_registry_pb2 as registry

pytestmark = pytest.mark.stack

NAME = "census-trees"
ROWS = 2_000


def trees_text() -> str:
    """The session's pipeline with boosted trees, which more years of school never speak against."""
    text = pipeline_text(NAME, compare="none")
    start, end = text.index("model:"), text.index("audit:\n")
    model = "model: {type: boosted_trees, monotone: {education_years: increasing}}\ntrainer: {epochs: 8}\n\n"
    return text[:start] + model + text[end:]


def test_boosted_trees_go_from_events_to_a_served_and_audited_version(served: Served) -> None:
    client = served.client
    client.pipelines.apply(trees_text(), by="test")
    served.journey.publish(NAME, "people", served.events[:ROWS])
    version = served.journey.train(NAME)
    assert version.state == registry.Version.STATE_PROMOTED, version.because
    assert client.audits.get(version.digest).verdict == "pass"
    assert version.metrics["auroc"] > 0.8  # of 200 rows
    served.journey.until_served(NAME, version.digest)
    asked = [
        asking.model_fields(client.pipelines.spec(NAME), served.events[7] | {"education_years": years})
        for years in range(1, 17, 3)
    ]
    chances = [client.predictions.by_fields(NAME, fields).probabilities["true"] for fields in asked]
    assert np.diff(chances).min() >= -1e-6
    assert max(chances) > min(chances)
