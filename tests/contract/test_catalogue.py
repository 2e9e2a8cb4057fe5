"""Every event has an example that decodes, every topic names events that exist, and a bad catalogue
is seen to be bad.
"""

from pathlib import Path

import pytest
from pydantic import ValidationError

from penstock.contracts.dataplane import SHAPES
from penstock.contracts.events import EVENTS, decode, encode
from penstock.contracts.load import read
from penstock.contracts.topics import CATALOGUE, SHARED, pipeline_topics

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "schemas" / "examples").glob("*.json"))
SERVICES = {path.parent.name for path in ROOT.glob("services/*/pyproject.toml")}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_decodes_and_comes_back(path: Path) -> None:
    event = decode(f"io.penstock.{path.stem}.v1", path.read_bytes())
    assert event is not None
    assert decode(event.ce_type(), encode(event)) == event
    assert event.key


def test_every_event_has_an_example() -> None:
    assert {path.stem for path in EXAMPLES} == {event.__name__ for event in EVENTS.values()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_event_without_its_first_field_does_not_decode(path: Path) -> None:
    first = path.read_text().split('"')[1]
    with pytest.raises(ValidationError, match=first):
        decode(
            f"io.penstock.{path.stem}.v1", path.read_bytes().replace(f'"{first}"'.encode(), b'"misspelt"', 1)
        )


def test_each_shared_topic_carries_just_the_events_that_say_so() -> None:
    declared = {topic.name: set(topic.messages) - SHAPES.keys() for topic in SHARED}
    carried: dict[str, set[str]] = {}
    for event in EVENTS.values():
        carried.setdefault(event.topic, set()).add(event.__name__)
    assert {name: events for name, events in declared.items() if events} == carried


def test_producers_and_consumers_exist() -> None:
    for topic in CATALOGUE:
        assert {*topic.producers, *topic.consumers} <= SERVICES | {"users"}, topic.name


def test_a_pipeline_gets_the_partitions_and_retention_that_its_file_asks_for() -> None:
    pipeline = read((ROOT / "examples" / "credit-risk" / "pipeline.yaml").read_text())
    topics = {topic.name: topic for topic in pipeline_topics(pipeline)}
    assert (
        topics["credit-risk.applications.events.v1"].partitions
        == topics["credit-risk.applications.seen.v1"].partitions
        == 2
    )
    assert topics["credit-risk.outcomes.seen.v1"].config["retention.ms"] == str(7 * 86_400_000)
    assert len(topics) == 9
