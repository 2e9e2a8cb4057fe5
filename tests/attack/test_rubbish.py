"""Rubbish on every topic is left out with its place and reason, nobody stops, and what is genuine goes
on; `test_odd_messages.py` sends far more.
"""

from __future__ import annotations

from collections import Counter

import pytest
from attacked import Attacked
from census import pipeline_text
from confluent_kafka import Producer

from penstock.contracts.events import EVENTS
from penstock.contracts.topics import SHARED, source_topic
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

SERVICES = sorted({consumer for topic in SHARED for consumer in topic.consumers} - {"users"})
ODD = (b"rubbish", b"[]", b'{"number": 9223372036854775808, "generation": 9223372036854775808}')


def test_rubbish_on_every_topic_stops_nobody(attacked: Attacked) -> None:
    stack, served = attacked.stack, attacked.served
    client, name = served.client, "rubbish"
    client.pipelines.apply(pipeline_text(name), by="test")
    served.journey.publish(name, "people", served.events[:100])
    pids = {service: stack.pid(service) for service in SERVICES}
    kafka = attacked.kafka
    producer = Producer(kafka.client())
    records, seen, rejects = (source_topic(kind, name, "people") for kind in ("records", "seen", "rejects"))
    attacked.says((event, value) for value in ODD for event in EVENTS.values())
    for value in ODD:
        for topic in (records, seen, rejects):
            producer.produce(kafka.topic(topic), value, partition=0)
    assert producer.flush(30) == 0
    readers = {(topic.name, f"penstock.{consumer}") for topic in SHARED for consumer in topic.consumers}
    expected = {place for place in readers if place[1] != "penstock.users"}
    expected.add((records, "penstock.feature_store.records"))

    def left_out() -> bool:
        found = Counter((letter.topic, letter.group) for letter in client.dead_letters.list())
        return all(found[place] >= len(ODD) for place in expected)

    until(left_out, what="each of them is a dead letter of each that reads it")
    stack.kill("ingest")  # it reads the pipelines and the seen ids anew
    client.events.publish(name, "people", served.events[50:150])
    until(lambda: served.journey.events(name, "people") == 200, what="what is genuine is taken")
    assert not list(client.events.rejects(name)), "what is no reject is not shown, and hides none"
    counts = client.events.counts(name, "people")
    assert (counts.records, counts.duplicates) == (150, 50)
    stack.ready()
    pids["ingest"] = stack.pid("ingest")
    assert {service: stack.pid(service) for service in SERVICES} == pids
    assert (seen, "penstock.ingest") in {
        (letter.topic, letter.group) for letter in client.dead_letters.list()
    }
