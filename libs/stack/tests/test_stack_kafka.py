"""Embedded broker with users, on a home of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer

from penstock.contracts.topics import SHARED
from penstock.runtime.kafka.access import open_for
from penstock.runtime.kafka.admin import end_offsets, ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.stack import passwords
from penstock.stack.kafka import Broker, topics
from penstock.stack.places import Places
from penstock.testing.broker import free_ports
from penstock.testing.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.process]

AUDITS = "audits.v1"


@contextmanager
def running(broker: Broker) -> Iterator[KafkaSettings]:
    """Settings of whoever has no password."""
    broker.prepare()
    process = subprocess.Popen(broker.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: topics(broker.address, 1.0) is not None, what="the broker answers")
        yield KafkaSettings(bootstrap_servers=broker.address)
    finally:
        process.terminate()
        process.wait(30)


def written(kafka: KafkaSettings) -> int | None:
    """Kafka's error upon a message to a control topic; None where it was taken."""
    answers: list[KafkaError | None] = []
    producer = Producer(kafka.client(message_timeout_ms=20_000))
    producer.produce(AUDITS, b"{}", on_delivery=lambda error, _: answers.append(error))
    producer.flush(30)
    return answers[0] and answers[0].code()


def test_a_broker_of_the_release_before_gets_users_and_keeps_its_data(tmp_path: Path) -> None:
    port, controller, services = free_ports(3)
    with running(Broker(tmp_path, port, controller)) as anybody:
        ensure_topics(anybody, SHARED)
        assert written(anybody) is None
    with running(Broker(tmp_path, port, controller, services)) as anybody:
        assert written(anybody) == KafkaError.TOPIC_AUTHORIZATION_FAILED
        users = passwords.ensure(tmp_path)
        address = f"127.0.0.1:{services}"
        broker = passwords.settings(tmp_path, address, passwords.BROKER, "")
        for _ in range(2):  # changes nothing at the next start
            open_for(broker, {"ingest": users["ingest"], "ethics_audit": users["ethics_audit"]}, within_s=30)
        assert written(passwords.settings(tmp_path, address, "ethics_audit", "")) is None
        refused = written(passwords.settings(tmp_path, address, "ingest", ""))
        assert refused == KafkaError.TOPIC_AUTHORIZATION_FAILED
        assert list(end_offsets(broker, [AUDITS]).values()) == [2]


def test_the_tool_that_formats_starts_from_the_cache_as_the_broker(tmp_path: Path) -> None:
    (tmp_path / "kafka.aot").touch()
    places = Places.find()
    places.kafka = tmp_path
    broker = Broker(tmp_path, 1, 2, places=places)
    cache = f"-XX:AOTCache={tmp_path / 'kafka.aot'}"
    assert cache in broker.command()
    assert cache in broker.formatting()
