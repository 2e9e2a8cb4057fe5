"""The topic catalogue against what the services really do: which events their routers take, which
their code makes.

Read from the source, so that a handler added without its line in the catalogue fails here.
Data-plane topics are built by name, by the functions of `penstock.contracts.topics`; who calls
which is compared too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from penstock.contracts.events import EVENTS, PipelineApplied
from penstock.contracts.topics import CATALOGUE, SHARED

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))
TOPIC_OF = {event.__name__: event.topic for event in EVENTS.values()}


def sources(service: str) -> list[str]:
    return [
        path.read_text()
        for path in sorted((ROOT / "services" / service / f"penstock_{service}").rglob("*.py"))
    ]


def calls(texts: Iterable[str]) -> Iterator[ast.Call]:
    for text in texts:
        yield from (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))


def consumed(texts: Iterable[str]) -> set[str]:
    """Topics of the events named in `router.on(…)`, `.on_replay(…)`, `.read(…, handler)`, and what
    AppliedPipelines reads.
    """
    found = set()
    for call in calls(texts):
        if isinstance(call.func, ast.Name) and call.func.id == "AppliedPipelines":
            found.add(PipelineApplied.topic)
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("on", "on_replay", "read"):
            found |= {
                TOPIC_OF[name.id] for name in call.args if isinstance(name, ast.Name) and name.id in TOPIC_OF
            }
    return found


def published(texts: Iterable[str]) -> set[str]:
    """Events that are made."""
    return {call.func.id for call in calls(texts) if isinstance(call.func, ast.Name)} & TOPIC_OF.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_consumes_just_what_the_catalogue_says(service: str) -> None:
    declared = {topic.name for topic in SHARED if service in topic.consumers}
    own = {topic.name for topic in SHARED if service == topic.owner}  # read at a start without a database
    assert declared <= consumed(sources(service)) <= declared | own


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_publishes_just_what_the_catalogue_says(service: str) -> None:
    assert published(sources(service)) == {
        event for topic in SHARED for event in topic.producers.get(service, ()) if event in TOPIC_OF
    }


def named(texts: Iterable[str]) -> set[str]:
    """Kinds of data-plane topics whose names are built: `events`, `records`, `predictions`."""
    found = set()
    for call in calls(texts):
        function = call.func.id if isinstance(call.func, ast.Name) else ""
        if function == "source_topic" and isinstance(call.args[0], ast.Constant):
            found.add(str(call.args[0].value))
        if function == "predictions_topic":
            found.add("predictions")
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_data_plane_topics_are_touched_by_producers_and_consumers_and_by_no_other(service: str) -> None:
    kinds = {topic.name.split(".")[-2]: topic for topic in CATALOGUE if topic.name.startswith("<p>")}
    asks_for_offsets = {"feature_store": {"events"}, "model_registry": {"events", "predictions"}}
    assert named(sources(service)) - asks_for_offsets.get(service, set()) == {
        kind for kind, topic in kinds.items() if service in (*topic.producers, *topic.consumers)
    }


def test_a_handler_and_an_event_that_nobody_declared_are_found() -> None:
    handlers = (
        "@router.on(AuditCompleted)\ndef on_audit(audit, effect):"
        " effect.publish(ModelVersionPromoted(version=audit.version))"
    )
    assert consumed([handlers]) == {"audits.v1"}
    assert published([handlers]) == {"ModelVersionPromoted"}
    assert consumed(["applied = AppliedPipelines('penstock.tally')"]) == {"pipelines.v1"}
    assert consumed(["replay.read('pipelines', PipelineApplied, apply)"]) == {"pipelines.v1"}
    assert named(["source_topic('records', pipeline, source)", "predictions_topic(pipeline)"]) == {
        "records",
        "predictions",
    }
