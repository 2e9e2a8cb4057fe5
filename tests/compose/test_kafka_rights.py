"""In containers too Kafka lets each service write what is its own, and publishers write events."""

from __future__ import annotations

import pytest
from census import Served
from confluent_kafka import KafkaError
from kafka_attempts import EVENTS, begun, letters, made, moved, topics, written

from penstock.contracts.services import PLATFORM
from penstock.runtime.settings import KafkaSettings
from penstock.testing.compose import ComposeUnderTest

pytestmark = pytest.mark.compose


@pytest.mark.parametrize("user", [*PLATFORM, "publisher"])
def test_a_user_writes_no_topic_of_another(
    served_by_compose: Served, compose: ComposeUnderTest, user: str
) -> None:
    name = "users" if user == "publisher" else user
    others = [topic.name for topic in topics(served_by_compose) if name not in topic.producers]
    refused = dict.fromkeys(others, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert written(compose.kafka(user), others) == refused


@pytest.mark.parametrize("user", [*PLATFORM, "publisher"])
def test_a_user_is_no_other(served_by_compose: Served, compose: ComposeUnderTest, user: str) -> None:
    kafka = compose.kafka(user)
    for service in PLATFORM.keys() - {user}:
        assert moved(kafka, f"penstock.{service}") == KafkaError.GROUP_AUTHORIZATION_FAILED
        assert begun(kafka, f"penstock.{service}-0") == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_a_publisher_makes_no_topic(served_by_compose: Served, compose: ComposeUnderTest) -> None:
    assert made(compose.kafka("publisher"), letters(served_by_compose)) == set()


def test_nobody_comes_without_a_password(served_by_compose: Served, compose: ComposeUnderTest) -> None:
    anybody = KafkaSettings(bootstrap_servers=compose.bootstrap_servers)
    assert written(anybody, [EVENTS], within_s=5) == {EVENTS: KafkaError._MSG_TIMED_OUT}
