"""Dead letters against a real broker: what waits, and what was given back."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

import pytest
from confluent_kafka import Producer

from penstock.client import ClientSettings, Penstock
from penstock.contracts.connection import KafkaSettings
from penstock.contracts.errors import Invalid, NotFound
from penstock.contracts.topics import SHARED, dead_letter_topic
from penstock.runtime.kafka.admin import ensure_topics
from penstock.testing.broker import Kafka

pytestmark = pytest.mark.kafka

AUDITS = "audits.v1"
LETTERS = dead_letter_topic(AUDITS, "penstock.model_registry")
HEADERS = {
    "ce_id": b"e1",
    "ce_type": b"io.penstock.AuditCompleted",
    "dlq-reason": b"no such version",
    "dlq-offset": b"7",
}


@pytest.fixture
def settings(kafka: Kafka) -> KafkaSettings:
    """A prefix of its own, and two letters."""
    made = kafka.settings(f"letters-{uuid.uuid4().hex[:8]}.")
    (audits,) = (topic for topic in SHARED if topic.name == AUDITS)
    ensure_topics(made, [audits, replace(audits, name=LETTERS)])
    producer = Producer(made.client())
    for value in (b"first", b"second"):
        producer.produce(made.topic(LETTERS), value, b"key", headers=HEADERS)
    assert producer.flush(10) == 0
    return made


def test_a_letter_that_was_given_back_is_marked_and_its_event_is_on_its_topic(
    settings: KafkaSettings,
) -> None:
    with Penstock(ClientSettings(endpoint="127.0.0.1:1", kafka=settings)) as client:
        first, second = client.dead_letters.list()
        assert (first.event_type, first.group, first.reason, first.replayed) == (
            "AuditCompleted",
            "penstock.model_registry",
            "no such version",
            False,
        )
        assert client.dead_letters.replay(first.id) == first
        assert [(letter.id, letter.replayed) for letter in client.dead_letters.list()] == [
            (first.id, True),
            (second.id, False),
        ]
        (event,) = client.events.read(AUDITS)
        assert (event.value(), event.key()) == (b"first", b"key")
        assert dict(event.headers() or []) == {
            name: value for name, value in HEADERS.items() if name.startswith("ce_")
        }
        with pytest.raises(NotFound, match="no dead letter `audits/0/9`"):
            client.dead_letters.replay("audits/0/9")
        producer = Producer(settings.client())
        of_a_site = HEADERS | {"dlq-site": b"branch-1", "dlq-left-out": b"9 bytes, sha256:07"}
        producer.produce(settings.topic(LETTERS), b"", headers=of_a_site)
        assert producer.flush(10) == 0
        with pytest.raises(Invalid, match=r"which site branch-1 forwarded: .* It had 9 bytes, sha256:07"):
            client.dead_letters.replay([*client.dead_letters.list()][-1].id)


def test_a_topic_is_read_to_its_end_without_waiting_for_more(settings: KafkaSettings) -> None:
    with Penstock(ClientSettings(endpoint="127.0.0.1:1", kafka=settings)) as client:
        took = []
        for _ in range(10):
            began = time.monotonic()
            assert [message.value() for message in client.events.read(LETTERS)] == [b"first", b"second"]
            took.append(time.monotonic() - began)
        assert min(took) < 0.5
