"""A site, the hub, Envoy and Kafka are killed again and again while a site takes events, answers, and
forwards both: nothing lost, nothing doubled, each in order, and all ready again by itself.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from census import PIPELINE, Served, pipeline_text, tensors
from sites import SiteLoad, joined, loading, messages, status, waits_for

from penstock.contracts.topics import predictions_topic, source_topic
from penstock.testing.site import SiteUnderTest
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.testing.wire import Wire

pytestmark = pytest.mark.stack("failures")

SEED = 20_261_130
KILLED = ("site", "edge_gateway", "envoy", "kafka")
WITHIN_S = 120.0
FEW = 100  # records that a lane holds at any moment under this load


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_what_a_site_took_is_in_the_topics_once_whoever_is_killed(
    served: Served, stack: StackUnderTest, tmp_path: Path, rounds: int
) -> None:
    draw, name, site_name = random.Random(SEED), f"killed-{rounds}", f"killed-{rounds}"
    served.client.pipelines.apply(pipeline_text(name, gates="[]", compare="none"), by="test")
    with (
        Wire(to=stack.stack.file.ports["sites"]) as wire,
        joined(stack, site_name, wire, tmp_path, patience_s=1.0) as site,
    ):
        waits_for(site, name)
        with loading(site, name, served.events, tensors(served, served.events[:1])) as load:
            for _ in range(rounds):
                caught_up(site, load)
                for killed in draw.sample(KILLED, len(KILLED)):
                    time.sleep(draw.uniform(0.0, 0.7))  # the moment of the kill
                    if killed == "site":
                        site.kill()
                        site.start()
                    else:
                        stack.kill(killed)
            caught_up(site, load)
        stack.ready()
        until(lambda: waiting(site) == 0, despite=grpc.RpcError, within=WITHIN_S, what="all is forwarded")
        assert [lane.dropped for lane in status(site).lanes] == [0, 0]

    events = messages(served, source_topic("events", name, "people"))
    found = Counter(str(one["event_id"]) for one in events)
    assert set(load.taken) <= found.keys() <= set(load.sent)
    assert set(found.values()) == {1}
    of_person: dict[object, list[int]] = {}
    for one in events:
        of_person.setdefault(one["person_id"], []).append(int(str(one["event_id"]).rpartition("-")[2]))
    assert all(numbers == sorted(numbers) for numbers in of_person.values())

    recorded = messages(served, predictions_topic(PIPELINE))
    ids = Counter(str(one["id"]) for one in recorded if one.get("site") == site_name)
    assert set(load.answered) <= ids.keys()
    assert set(ids.values()) == {1}
    print(f"{rounds} kills each: {len(load.taken)} events, {len(load.answered)} answers")


def caught_up(site: SiteUnderTest, load: SiteLoad) -> None:
    """Waits until the site takes events and answers again, and little waits for the hub."""
    before = len(load.taken), len(load.answered)
    until(
        lambda: (
            len(load.taken) > before[0] + FEW
            and len(load.answered) > before[1] + FEW // 4
            and waiting(site) < FEW
            and not status(site).hub_trouble
        ),
        despite=grpc.RpcError,
        within=WITHIN_S,
        what=f"the site forwards what it takes ({load.failed})",
    )


def waiting(site: SiteUnderTest) -> int:
    return sum(lane.records for lane in status(site).lanes)
