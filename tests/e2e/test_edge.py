"""A site that is cut off answers and takes events, over a power cut too; when the hub is back, all of it
stands in the topics, once and in order. What became of a pipeline meanwhile counts from then on.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from census import PIPELINE, Served, infer, pipeline_text, run_penstock, tensors
from sites import WITHIN_S, ask, joined, knows, messages, publish, serves, status, waits_for

from penstock.contracts.topics import predictions_topic, source_topic
from penstock.testing.site import SiteUnderTest
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until
from penstock.testing.wire import Wire

pytestmark = pytest.mark.stack

PLANTS = itertools.count(7)  # sites, a name each
LISTED = "census-listed"  # takes the site's events: other tests count the session's pipeline's
EVENTS, PREDICTIONS = 300, 40
LETTERS = "edge-positions.v1.penstock.edge_gateway.dlq"


@pytest.fixture
def wire(stack: StackUnderTest) -> Iterator[Wire]:
    with Wire(to=stack.stack.file.ports["sites"]) as wire:
        yield wire


@pytest.fixture
def site(served: Served, stack: StackUnderTest, wire: Wire, tmp_path: Path) -> Iterator[SiteUnderTest]:
    """Serves the pipeline from its disk; between it and the hub lies the wire."""
    apply(stack, tmp_path, LISTED)
    with joined(stack, f"plant-{next(PLANTS)}", wire, tmp_path) as site:
        waits_for(site, LISTED)
        yield site


def apply(stack: StackUnderTest, folder: Path, name: str, text: str | None = None) -> None:
    file = folder / f"{name}.yaml"
    file.write_text(text or pipeline_text(name))
    done = run_penstock(stack, "apply", str(file))
    assert done.returncode == 0, done.stderr


def test_what_happened_at_a_site_that_was_cut_off_is_in_the_topics_once_and_in_order(
    served: Served, stack: StackUnderTest, site: SiteUnderTest, wire: Wire
) -> None:
    numbers, strings = tensors(served, served.events[:PREDICTIONS])
    name = site.folder.name
    events = [
        event | {"event_id": f"{name}-{number}", "person_id": f"{name}-{number % 20}"}
        for number, event in enumerate(served.events[:EVENTS])
    ]
    wire.cut()
    publish(site, LISTED, events[: EVENTS // 2])
    answered, ids = ask(site, numbers[:20], strings[:20])
    site.kill()
    site.start()
    serves(site)
    publish(site, LISTED, events[EVENTS // 2 :])
    later, more = ask(site, numbers[20:], strings[20:])
    there = infer(served, numbers, strings)
    assert np.abs(np.concatenate([answered, later]) - there).max() <= 1e-6

    wire.mend()
    topic = source_topic("events", LISTED, "people")
    mine = {event["event_id"] for event in events}

    def arrived() -> list[str]:
        return [str(one["event_id"]) for one in messages(served, topic) if one.get("event_id") in mine]

    until(lambda: len(arrived()) >= EVENTS, within=WITHIN_S, what="all events came")
    assert Counter(arrived()).most_common(1)[0][1] == 1
    by_person: dict[object, list[int]] = {}
    for one in messages(served, topic):
        if one.get("event_id") in mine:
            by_person.setdefault(one["person_id"], []).append(int(str(one["event_id"]).split("-")[-1]))
    assert all(numbers == sorted(numbers) for numbers in by_person.values())

    def recorded() -> list[object]:
        return [one["id"] for one in messages(served, predictions_topic(PIPELINE)) if one.get("site") == name]

    until(lambda: len(recorded()) >= PREDICTIONS, within=WITHIN_S, what="all predictions came")
    assert recorded() == [*ids, *more]
    shown = run_penstock(stack, "sites", "show", name)
    assert PIPELINE in shown.stdout
    assert "trusts the keys of 20" in shown.stdout


def test_a_person_who_is_erased_while_a_site_is_away_does_not_come_back_from_it(
    served: Served, stack: StackUnderTest, site: SiteUnderTest, wire: Wire
) -> None:
    name = site.folder.name
    gone, stays = f"{name}-gone", f"{name}-stays"
    wire.cut()
    publish(
        site,
        LISTED,
        [served.events[0] | {"event_id": f"of-{person}", "person_id": person} for person in (gone, stays)],
    )
    assert name in run_penstock(stack, "erase", LISTED, gone, "--yes").stdout
    erasure = served.client.sites.erase(LISTED, gone)
    assert name in served.client.sites.waiting(erasure)
    wire.mend()
    until(
        lambda: name not in served.client.sites.waiting(erasure), within=WITHIN_S, what="the site confirms it"
    )
    until(lambda: not status(site).lanes[0].records, within=WITHIN_S, what="all is forwarded")
    forwarded = messages(served, source_topic("events", LISTED, "people"))
    assert [one["person_id"] for one in forwarded if one["person_id"] in (gone, stays)] == [stays]
    spool = [file.read_bytes() for file in site.folder.glob("events.db*")]
    assert not [data for data in spool if gone.encode() in data]


def test_a_pipeline_that_was_changed_or_deleted_while_a_site_was_away_counts_from_then_on(
    served: Served, stack: StackUnderTest, site: SiteUnderTest, wire: Wire, tmp_path: Path
) -> None:
    gone, changed = "census-gone", "census-changed"
    rows = served.events[:3]
    for name in (gone, changed):
        apply(stack, tmp_path, name)
        waits_for(site, name)
    wire.cut()
    mine = [event | {"event_id": f"away-{number}"} for number, event in enumerate(rows)]
    for name in (gone, changed):
        publish(site, name, mine)
    text = pipeline_text(changed)
    workclass = "      workclass: {type: category}\n"
    assert workclass in text
    apply(stack, tmp_path, changed, text.replace(workclass, workclass + "      of_later: {type: number}\n"))
    deleted = run_penstock(stack, "delete", gone, "--yes")
    assert deleted.returncode == 0, deleted.stderr
    wire.mend()
    until(
        lambda: len(messages(served, source_topic("events", changed, "people"))) == len(rows),
        within=WITHIN_S,
        what="the changed pipeline has its events",
    )
    until(lambda: knows(site, gone) is None, within=WITHIN_S, what="the site has forgotten the deleted one")
    assert "of_later" in (knows(site, changed) or "")
    publish(site, changed, [mine[0] | {"event_id": "later", "of_later": 1}])
    until(
        lambda: not status(site).lanes[0].records, within=WITHIN_S, what="what was deleted holds up nothing"
    )
    letters = [dict(one.headers() or []) for one in served.client.events.read(LETTERS)]
    of_site = [one["dlq-reason"].decode() for one in letters if one["dlq-site"] == site.folder.name.encode()]
    assert len(of_site) == len(rows)
    assert all(gone in why for why in of_site)
    run_penstock(stack, "delete", changed, "--yes")


def test_what_may_not_leave_a_site_comes_nowhere_and_its_pseudonym_is_erased_by_the_real_id(
    served: Served, stack: StackUnderTest, site: SiteUnderTest, tmp_path: Path
) -> None:
    name, listed = "census-private", "race, sex, over_50k]"
    text = pipeline_text(name)
    assert listed in text
    replaced = "sex, over_50k]\n  pseudonymize: [race, person_id]"
    apply(stack, tmp_path, name, text.replace(listed, replaced))
    waits_for(site, name)
    event = served.events[0] | {"event_id": "private-1", "person_id": "canary-person", "race": "canary-race"}
    until(lambda: publish(site, name, [event]) is None, despite=grpc.RpcError, what="the key has come")
    with pytest.raises(AssertionError):
        publish(site, name, [event | {"event_id": "private-2", "age": "canary-age"}])
    topics = [source_topic(kind, name, "people") for kind in ("events", "records", "rejects")]
    until(lambda: messages(served, topics[1]), within=WITHIN_S, what="the event is a record")
    (record,) = messages(served, topics[1])
    assert len(str(record["entity"])) == 32
    others = [predictions_topic(name), "edge-sites.v1", "edge-positions.v1", LETTERS]
    told = [
        (message.key() or b"") + (message.value() or b"") + repr(message.headers()).encode()
        for topic in (*topics, *others)
        for message in served.client.events.read(topic)
    ]
    logs = [file for file in stack.stack.file.home.rglob("*.log") if file.is_file()]
    assert told
    assert logs
    assert [one for one in (*told, *(file.read_bytes() for file in logs)) if b"canary" in one] == []

    erase = ("erase", name, "canary-person", "--yes")
    until(
        lambda: "removed 1 lake row, " in run_penstock(stack, *erase).stdout,
        within=WITHIN_S,
        what="the person is erased by the real id",
    )
