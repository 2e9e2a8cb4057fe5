"""A site that is cut off answers and takes events, over a power cut too; when the hub is back, all of it
stands in the topics, once and in order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import asking
import grpc
import numpy as np
import orjson
import pytest
import tritonclient.grpc as triton
from census import PIPELINE, Served, infer, pipeline_text, run_penstock, tensors
from tritonclient.utils import InferenceServerException

from penstock.contracts.topics import predictions_topic, source_topic
from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc
from penstock.testing.site import SiteUnderTest
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.testing.wire import Wire
from penstock_edge_gateway.token import Token

pytestmark = pytest.mark.stack

SITE = "plant-7"
LISTED = "census-listed"  # takes the site's events: other tests count the session's pipeline's
EVENTS, PREDICTIONS = 300, 40
WITHIN_S = 120.0


@pytest.fixture
def wire(stack: StackUnderTest) -> Iterator[Wire]:
    with Wire(to=stack.stack.file.ports["sites"]) as wire:
        yield wire


@pytest.fixture
def site(served: Served, stack: StackUnderTest, wire: Wire, tmp_path: Path) -> Iterator[SiteUnderTest]:
    """Serves the pipeline from its disk; between it and the hub lies the wire."""
    made = run_penstock(stack, "sites", "enroll", SITE, "--json")
    assert made.returncode == 0, made.stderr
    token = replace(Token.read(json.loads(made.stdout)["token"]), hub=wire.address)
    file = tmp_path / "pipeline.yaml"
    file.write_text(pipeline_text(LISTED))
    assert run_penstock(stack, "apply", str(file)).returncode == 0
    with SiteUnderTest(tmp_path / SITE) as site:
        site.join(str(token))
        site.start()
        serves(site)
        until(lambda: knows(site), despite=grpc.RpcError, what=f"the site takes events of {LISTED}")
        yield site


def knows(site: SiteUnderTest) -> bool:
    request = site_pb2.GetPipelineRequest(pipeline=LISTED)
    with grpc.insecure_channel(site.endpoint) as channel:
        return bool(site_pb2_grpc.SiteServiceStub(channel).GetPipeline(request, timeout=5))


def serves(site: SiteUnderTest) -> None:
    def ready() -> bool:
        with triton.InferenceServerClient(site.endpoint) as client:
            try:
                return bool(client.is_model_ready(PIPELINE))
            except InferenceServerException:
                return False

    until(ready, within=WITHIN_S, what=f"the site serves {PIPELINE}: {site.log}")


def ask(site: SiteUnderTest, numbers: np.ndarray, strings: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Probabilities, a row a call, and the ids of the answers."""
    with grpc.insecure_channel(site.endpoint) as channel:
        rows = (slice(at, at + 1) for at in range(len(numbers)))
        answers = [asking.over_grpc(channel, PIPELINE, numbers[row], strings[row]) for row in rows]
    return np.concatenate([found for found, _ in answers]), [prediction for _, prediction in answers]


def publish(site: SiteUnderTest, events: list[dict[str, object]]) -> None:
    request = site_pb2.PublishRequest(
        pipeline=LISTED, source="people", events=[orjson.dumps(event, default=str) for event in events]
    )
    with grpc.insecure_channel(site.endpoint) as channel:
        answer = site_pb2_grpc.SiteServiceStub(channel).Publish(request, timeout=30)
    assert (answer.accepted, list(answer.rejected)) == (len(events), [])


def of_the_site(served: Served, topic: str) -> list[dict[str, object]]:
    """Messages of a topic; events that other tests publish may be no object."""
    found = []
    for message in served.client.events.read(topic):
        with suppress(orjson.JSONDecodeError):
            found.append(orjson.loads(message.value() or b""))
    return [one for one in found if isinstance(one, dict)]


def test_what_happened_at_a_site_that_was_cut_off_is_in_the_topics_once_and_in_order(
    served: Served, stack: StackUnderTest, site: SiteUnderTest, wire: Wire
) -> None:
    numbers, strings = tensors(served, served.events[:PREDICTIONS])
    events = [
        event | {"event_id": f"{SITE}-{number}", "person_id": f"{SITE}-{number % 20}"}
        for number, event in enumerate(served.events[:EVENTS])
    ]
    wire.cut()
    publish(site, events[: EVENTS // 2])
    answered, ids = ask(site, numbers[:20], strings[:20])
    site.kill()
    site.start()
    serves(site)
    publish(site, events[EVENTS // 2 :])
    later, more = ask(site, numbers[20:], strings[20:])
    there = infer(served, numbers, strings)
    assert np.abs(np.concatenate([answered, later]) - there).max() <= 1e-6

    wire.mend()
    topic = source_topic("events", LISTED, "people")
    mine = {event["event_id"] for event in events}

    def arrived() -> list[str]:
        return [str(one["event_id"]) for one in of_the_site(served, topic) if one.get("event_id") in mine]

    until(lambda: len(arrived()) >= EVENTS, within=WITHIN_S, what="all events came")
    assert Counter(arrived()).most_common(1)[0][1] == 1
    by_person: dict[object, list[int]] = {}
    for one in of_the_site(served, topic):
        if one.get("event_id") in mine:
            by_person.setdefault(one["person_id"], []).append(int(str(one["event_id"]).split("-")[-1]))
    assert all(numbers == sorted(numbers) for numbers in by_person.values())

    def recorded() -> list[object]:
        return [
            one["id"] for one in of_the_site(served, predictions_topic(PIPELINE)) if one.get("site") == SITE
        ]

    until(lambda: len(recorded()) >= PREDICTIONS, within=WITHIN_S, what="all predictions came")
    assert recorded() == [*ids, *more]
    shown = run_penstock(stack, "sites", "show", SITE)
    assert PIPELINE in shown.stdout
