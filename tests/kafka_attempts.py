"""What one may try at Kafka, by its settings: each attempt says what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress

from census import PIPELINE, Served
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import TopicAuthorizationFailedError

from penstock.contracts.topics import SHARED, Topic, dead_letter_topic, pipeline_topics, source_topic
from penstock.runtime.settings import KafkaSettings

EVENTS = source_topic("events", PIPELINE, "people")


def topics(served: Served) -> tuple[Topic, ...]:
    return (*SHARED, *pipeline_topics(served.client.pipelines.spec(PIPELINE)))


def letters(served: Served) -> dict[str, str]:
    """Topics of dead letters, with the service that may write each."""
    return {
        dead_letter_topic(topic.name, f"penstock.{consumer}"): consumer
        for topic in topics(served)
        for consumer in topic.consumers
        if consumer != "users"
    }


def written(
    kafka: KafkaSettings,
    names: Iterable[str],
    value: bytes | None = b"forged",
    key: bytes | None = None,
    within_s: float = 20,
) -> dict[str, int | None]:
    """What became of a message to each topic: Kafka's error, None where it was taken."""
    found: dict[str, int | None] = {}
    producer = Producer(kafka.client(message_timeout_ms=int(within_s * 1000)))
    for name in names:
        try:
            producer.produce(
                name,
                value,
                key,
                on_delivery=lambda error, _, name=name: found.update({name: error and error.code()}),
            )
        except KafkaException as error:
            found[name] = error.args[0].code()
    producer.flush(30)
    return found


def made(kafka: KafkaSettings, names: Iterable[str]) -> set[str]:
    """Those of the topics that could be made."""
    found = set()
    with closing(KafkaAdminClient(**kafka.admin())) as admin:
        for name in names:
            with suppress(TopicAuthorizationFailedError):
                admin.create_topics([NewTopic(name, 1, 1)])
                found.add(name)
    return found


def moved(kafka: KafkaSettings, group: str) -> int | None:
    """Sets back a group's position: Kafka's error, None where it was done."""
    consumer = Consumer(kafka.client(group_id=group))
    try:
        consumer.commit(offsets=[TopicPartition(EVENTS, 0, 0)], asynchronous=False)
    except KafkaException as error:
        return int(error.args[0].code())
    finally:
        consumer.close()
    return None


def begun(kafka: KafkaSettings, transactional_id: str) -> int | None:
    try:
        Producer(kafka.client(transactional_id=transactional_id)).init_transactions(20)
    except KafkaException as error:
        return error.args[0].code()
    return None
