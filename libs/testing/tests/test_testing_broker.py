"""The broker that the other tests stand on."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from penstock.testing.broker import EmbeddedKafka, Kafka


@pytest.mark.kafka
def test_the_shared_broker_answers(kafka: Kafka) -> None:
    assert AdminClient(kafka.settings().client()).list_topics(timeout=5).brokers


@pytest.mark.kafka
@pytest.mark.slow
def test_a_killed_broker_keeps_what_it_acknowledged() -> None:
    with EmbeddedKafka() as kafka:
        admin = AdminClient(kafka.settings().client())
        admin.create_topics([NewTopic("kept", 1)])["kept"].result(10)
        producer = Producer(kafka.settings().client(enable_idempotence=True))
        producer.produce("kept", b"1")
        assert producer.flush(20) == 0
        kafka.kill()
        kafka.start()
        producer.produce("kept", b"2")
        assert producer.flush(30) == 0
