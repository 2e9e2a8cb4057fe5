"""A pipeline that never served goes, and nothing of it comes back with the next one of its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from census import PIPELINE, Served, pipeline_text, run_penstock

from penstock.client.pipelines import BadPipelineFile
from penstock.contracts.errors import NotFound, Unavailable
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.runtime.kafka.admin import admin_client
from penstock.testing.files import below
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

NAME = "short-lived"
ROWS = 1500


def topics(stack: StackUnderTest) -> list[str]:
    with admin_client(stack.stack.kafka, "look") as admin:
        return [topic["name"] for topic in admin.describe_topics() if topic["name"].startswith(f"{NAME}.")]


def test_a_refused_pipeline_is_deleted_and_applied_anew(served: Served, stack: StackUnderTest) -> None:
    client, rows = served.client, served.events[:ROWS]
    text = pipeline_text(NAME, gates="[{metric: auroc, at_least: 0.999, on_fail: block}]", epochs=1)
    client.pipelines.apply(text, by="test")
    served.journey.publish(NAME, "people", rows)
    assert served.journey.train(NAME).state == registry.Version.STATE_REFUSED

    other = text.replace("person: {", "someone: {").replace("entity: person", "entity: someone")
    other = other.replace("by: person", "by: someone")
    with pytest.raises(BadPipelineFile, match=f"penstock delete {NAME}"):
        client.pipelines.apply(other, by="test")
    stays = run_penstock(stack, "delete", PIPELINE, "--yes")
    assert stays.returncode == 3
    assert "its decisions must be traceable" in stays.stderr
    gone = run_penstock(stack, "delete", NAME, "--yes")
    assert gone.returncode == 0, gone.stderr
    assert "5 topics with their events, 1 version;" in gone.stdout
    until(lambda: not topics(stack), what=f"Kafka has no topic of {NAME}")
    assert "is deleted already" in run_penstock(stack, "delete", NAME, "--yes").stdout
    until(lambda: not _data(stack), what=f"no row of {NAME} is left")
    until(lambda: _unknown_everywhere(served), despite=Unavailable, what=f"no service knows {NAME}")

    # Without its topics, which it may not make, ingest has to come up all the same.
    stack.stack.stop("ingest")
    stack.stack.start("ingest")
    stack.ready("ingest")

    client.pipelines.apply(other, by="test")
    assert client.pipelines.get(NAME).number == 2
    served.journey.publish(NAME, "people", rows)
    counts = client.events.counts(NAME, "people")
    assert (counts.records, counts.duplicates) == (ROWS, 0)
    assert client.models.list(NAME) == []
    run_penstock(stack, "delete", NAME, "--yes")


def _data(stack: StackUnderTest) -> list[Path]:
    return [path for path in below(stack.home) if path.name == NAME and path.parent.name in ("lake", "feast")]


def _unknown_everywhere(served: Served) -> bool:
    asked = (
        lambda: served.client.pipelines.get(NAME),
        lambda: served.client.events.counts(NAME, "people"),
        lambda: served.client.runs.create(NAME, by="test"),
        lambda: served.client.predictions.by_entity(NAME, "p00001"),
    )
    for ask in asked:
        try:
            ask()
        except NotFound:
            continue
        return False
    return True
