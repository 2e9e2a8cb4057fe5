"""Topics are made by whoever needs them, from the catalogue, as often as asked."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import Topic
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)


def ensure_topics(kafka: KafkaSettings, topics: Sequence[Topic]) -> list[str]:
    """Creates what is missing, raises partitions and retention where the catalogue asks for more; returns the new names.

    Blocks for some tens of milliseconds. Raises Unavailable while Kafka is away. Never lowers partitions or deletes a topic.
    """
    try:
        admin = KafkaAdminClient(**kafka.admin(), request_timeout_ms=10_000, client_id="penstock-topics")
    except (KafkaError, ValueError, OSError) as error:
        raise Unavailable(
            f"Kafka at {kafka.bootstrap_servers} does not answer: {error}", remedy="Start it, or correct PENSTOCK_KAFKA__BOOTSTRAP_SERVERS"
        ) from error
    try:
        present = {found["name"]: len(found["partitions"]) for found in admin.describe_topics()}
        missing = [topic for topic in topics if kafka.topic(topic.name) not in present]
        for topic in missing:
            _create(admin, kafka, topic)
        for topic in topics:
            if topic not in missing:
                _adjust(admin, kafka.topic(topic.name), topic, present[kafka.topic(topic.name)])
        return [kafka.topic(topic.name) for topic in missing]
    except (KafkaError, OSError) as error:
        raise Unavailable(f"Kafka at {kafka.bootstrap_servers} did not make the topics: {error}") from error
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, kafka: KafkaSettings, topic: Topic) -> None:
    new = NewTopic(
        name=kafka.topic(topic.name),
        num_partitions=topic.partitions,
        replication_factor=kafka.replication,
        topic_configs=topic.config,
    )
    try:
        admin.create_topics([new])
        log.info("topic_created", topic=new.name, partitions=topic.partitions, **topic.config)
    except TopicAlreadyExistsError:
        log.debug("topic_exists", topic=new.name)


def _adjust(admin: KafkaAdminClient, name: str, topic: Topic, partitions: int) -> None:
    if topic.partitions > partitions:
        admin.create_partitions({name: NewPartitions(total_count=topic.partitions)})
        log.info("topic_widened", topic=name, partitions=topic.partitions)
    if topic.cleanup == "delete" and topic.retention_ms > 0:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=topic.config)])
