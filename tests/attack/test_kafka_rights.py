"""Kafka lets each service write what is its own and users write events; whoever comes without a
password is a user.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import orjson
import pytest
from census import Served, pipeline_text
from confluent_kafka import KafkaError, Producer
from kafka import KafkaAdminClient
from kafka import TopicPartition as Place
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    ConfigResourceType,
    NewPartitions,
    NewTopic,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaError as Refusal
from kafka_attempts import EVENTS, begun, letters, made, moved, topics, written

from penstock.contracts.services import PLATFORM
from penstock.contracts.topics import source_topic
from penstock.runtime.kafka.messages import Produced
from penstock.runtime.kafka.transaction import MessageRefused, Transactions
from penstock.stack.programs import kafka_user
from penstock.testing.stack import StackUnderTest
from penstock.testing.wait import until

pytestmark = pytest.mark.stack

MAKERS = {"model_registry"}  # it makes each pipeline's topics, and so may make any
EVERYTHING = ACL(
    "User:ANONYMOUS",
    "*",
    ACLOperation.ALL,
    ACLPermissionType.ALLOW,
    ResourcePattern(ResourceType.TOPIC, "*"),
)


def test_a_right_that_is_missing_is_told_from_an_outage(stack: StackUnderTest) -> None:
    """Of a transaction too: the hub of sites waits for it with the lane that needs it, and no other."""
    kafka = kafka_user(stack.stack.file, "edge_gateway")
    tried = Transactions(kafka, kafka.topic("penstock.edge_gateway.tried"), group="penstock.edge_gateway")
    tried.begin()
    with pytest.raises(MessageRefused) as refused:  # noqa: PT012  either may tell
        tried.produce([Produced("audits.v1", 0, None, b"")])
        tried.commit()
    assert refused.value.may_pass


@pytest.mark.parametrize("service", PLATFORM)
def test_a_service_writes_no_topic_of_another(served: Served, stack: StackUnderTest, service: str) -> None:
    others = [topic.name for topic in topics(served) if service not in topic.producers]
    kafka = kafka_user(stack.stack.file, service)
    assert written(kafka, others) == dict.fromkeys(others, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    if service not in MAKERS:
        assert made(kafka, [name for name, by in letters(served).items() if by != service]) == set()


@pytest.mark.parametrize("user", [*PLATFORM, None])
def test_nobody_deletes_what_another_stated(served: Served, stack: StackUnderTest, user: str | None) -> None:
    """By a tombstone on a topic that keeps the newest of each key; `None`: without a password."""
    kept = [topic for topic in topics(served) if topic.cleanup == "compact" and user not in topic.producers]
    assert kept
    kafka = kafka_user(stack.stack.file, user) if user else stack.stack.kafka
    tried = written(kafka, [topic.name for topic in kept], None, served.version.pipeline.encode())
    assert tried == {topic.name: KafkaError.TOPIC_AUTHORIZATION_FAILED for topic in kept}
    assert served.client.pipelines.spec(served.version.pipeline)


@pytest.mark.parametrize("service", PLATFORM)
def test_a_service_is_no_other(served: Served, stack: StackUnderTest, service: str) -> None:
    """Nor sets back its positions, nor fences its producers."""
    kafka = kafka_user(stack.stack.file, service)
    for other in PLATFORM.keys() - {service}:
        assert moved(kafka, f"penstock.{other}") == KafkaError.GROUP_AUTHORIZATION_FAILED
        assert begun(kafka, f"penstock.{other}-0") == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_without_a_password_nothing_but_events_is_written(served: Served, stack: StackUnderTest) -> None:
    names = [topic.name for topic in topics(served) if topic.owner != "users"]
    names += ["__consumer_offsets", "__transaction_state"]
    assert made(stack.stack.kafka, letters(served)) == set()
    assert written(stack.stack.kafka, names) == dict.fromkeys(names, KafkaError.TOPIC_AUTHORIZATION_FAILED)


def test_without_a_password_nobody_is_a_service(served: Served, stack: StackUnderTest) -> None:
    kafka = stack.stack.kafka
    for service in PLATFORM:
        for name in (f"penstock.{service}", f"penstock.{service}.records"):
            assert moved(kafka, name) == KafkaError.GROUP_AUTHORIZATION_FAILED
            assert begun(kafka, f"{name}-0") == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


@pytest.mark.parametrize(
    "attempt",
    [
        lambda admin: admin.create_topics([NewTopic("forged", 1, 1)]),
        lambda admin: admin.delete_topics([EVENTS]),
        lambda admin: admin.create_partitions({EVENTS: NewPartitions(total_count=50)}),
        lambda admin: admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, EVENTS, configs={"retention.ms": "1"})],
            raise_on_unknown=False,
        ),
        lambda admin: admin.alter_configs(
            [ConfigResource(ConfigResourceType.BROKER, "1", configs={"message.max.bytes": "2000000"})],
            raise_on_unknown=False,
        ),
        lambda admin: admin.delete_records({Place(EVENTS, 0): -1}),
        lambda admin: admin.delete_groups(["penstock.ingest"]),
        lambda admin: admin.create_acls([EVERYTHING]),
        lambda admin: admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("admin", "SCRAM-SHA-256", "mine")]
        ),
    ],
)
def test_without_a_password_nothing_is_administered(
    served: Served, stack: StackUnderTest, attempt: Callable[[KafkaAdminClient], Any]
) -> None:
    with closing(KafkaAdminClient(**stack.stack.kafka.admin(), request_timeout_ms=10_000)) as admin:
        try:
            said = str(attempt(admin))
        except Refusal as error:
            said = repr(error)
    assert re.search("authorization_?failed|is not authorized|needs ALTER permission", said, re.IGNORECASE), (
        said
    )


def test_anybody_publishes_events_of_an_applied_pipeline(served: Served, stack: StackUnderTest) -> None:
    """Publishing works for a pipeline applied later, too, and in a transaction."""
    name, client = "rights", served.client
    client.pipelines.apply(pipeline_text(name), by="test")
    kafka = stack.stack.kafka
    producer = Producer(kafka.client(transactional_id="mine"))
    producer.init_transactions(20)
    producer.begin_transaction()
    for event in served.events[:10]:
        producer.produce(source_topic("events", name, "people"), orjson.dumps(event))
    producer.produce(source_topic("events", name, "people"), b"no event")
    producer.commit_transaction(20)
    until(lambda: served.journey.events(name, "people") == 11, what="they are taken")
    assert [source for source, _ in client.events.rejects(name)] == ["people"]


def test_a_kafka_without_rights_gets_them_from_the_registry(served: Served, stack: StackUnderTest) -> None:
    """As that of the release before, whose pipelines the registry knows."""
    served.client.pipelines.apply(pipeline_text("granted"), by="test")
    events = source_topic("events", "granted", "people")
    with closing(KafkaAdminClient(**stack.stack.admin.admin())) as admin:
        pattern = ResourcePatternFilter(ResourceType.TOPIC, events, ACLResourcePatternType.LITERAL)
        everybody = ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, pattern)
        admin.delete_acls([everybody])
    refused = {events: KafkaError.TOPIC_AUTHORIZATION_FAILED}
    until(lambda: written(stack.stack.kafka, [events]) == refused, what="nobody has rights")
    stack.kill("model_registry")
    until(lambda: written(stack.stack.kafka, [events]) == {events: None}, what="users publish")
    stack.ready()
