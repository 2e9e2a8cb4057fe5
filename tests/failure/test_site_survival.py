"""A site, the hub, Envoy and Kafka are killed again and again, or the line is cut for an hour, while a site
takes events, answers, and forwards both: nothing lost, nothing doubled, each in order, and all ready
again by itself.
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
HALF_AN_HOUR_S = 1800.0
TRIES = 400  # connections in an hour: one each minute, and those that TLS needs beside a call
LINES = 50  # of the site's log: one a change, not one a try
MORE_MB = 50.0  # of memory, while the disk takes what waits


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

    stands_once_and_in_order(served, load, name, site_name)
    print(f"{rounds} kills each: {len(load.taken)} events, {len(load.answered)} answers")


@pytest.mark.slow
def test_what_a_site_took_in_a_real_hour_without_the_line_is_in_the_topics_once_and_in_order(
    served: Served, stack: StackUnderTest, tmp_path: Path
) -> None:
    """Half of the hour connections are reset, and half of it swallowed. Nothing in it is hastened."""
    name = "without-the-line"
    served.client.pipelines.apply(pipeline_text(name, gates="[]", compare="none"), by="test")
    row = tensors(served, served.events[:1])
    with (
        Wire(to=stack.stack.file.ports["sites"]) as wire,
        joined(stack, name, wire, tmp_path) as site,
    ):
        waits_for(site, name)
        with loading(site, name, served.events, row, pause_s=0.5) as load:
            caught_up(site, load)
            wire.cut()
            tries, said, before_mb = wire.connections, site.log.stat().st_size, site.resident_mb
            time.sleep(HALF_AN_HOUR_S)  # of a real hour
            wire.hang()
            time.sleep(HALF_AN_HOUR_S)  # and the other half
            kept, tries, after_mb = waiting(site), wire.connections - tries, site.resident_mb
            told = status(site).hub_trouble
            wire.mend()
            mended = time.monotonic()
            caught_up(site, load, within_s=3 * WITHIN_S)
            took_s = time.monotonic() - mended
        until(lambda: waiting(site) == 0, within=WITHIN_S, what="all is forwarded")
        lines = site.log.read_bytes()[said:].decode().splitlines()
    print(
        f"{len(load.taken)} events and {len(load.answered)} answers, {kept} kept; {tries} tries;"
        f" {before_mb:.0f} MB before, {after_mb:.0f} after; forwarded within {took_s:.0f} s"
    )
    stands_once_and_in_order(served, load, name, name)
    assert kept > HALF_AN_HOUR_S  # a record each two seconds, at least
    assert sum(load.failed.values()) < len(load.answered) / 100
    assert told
    assert len(lines) < LINES, lines
    assert tries < TRIES
    assert after_mb - before_mb < MORE_MB


def stands_once_and_in_order(served: Served, load: SiteLoad, pipeline: str, site: str) -> None:
    """Looks at all that the topics hold of what was sent to a site and asked of it."""
    events = messages(served, source_topic("events", pipeline, "people"))
    found = Counter(str(one["event_id"]) for one in events)
    assert set(load.taken) <= found.keys() <= set(load.sent)
    assert set(found.values()) == {1}
    of_person: dict[object, list[int]] = {}
    for one in events:
        of_person.setdefault(one["person_id"], []).append(int(str(one["event_id"]).rpartition("-")[2]))
    assert all(numbers == sorted(numbers) for numbers in of_person.values())

    records = messages(served, predictions_topic(PIPELINE))
    recorded, answered = [one["id"] for one in records if one.get("site") == site], set(load.answered)
    assert len(recorded) == len(set(recorded))
    assert [one for one in recorded if one in answered] == load.answered


def caught_up(site: SiteUnderTest, load: SiteLoad, *, within_s: float = WITHIN_S) -> None:
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
        within=within_s,
        what=f"the site forwards what it takes ({load.failed})",
    )


def waiting(site: SiteUnderTest) -> int:
    return sum(lane.records for lane in status(site).lanes)
