"""Topics are made by whoever needs them, from the catalogue, as often as asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import structlog
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import Topic
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)


def connect(kafka: KafkaSettings, client_id: str, *, within_ms: int, answer_ms: int) -> KafkaAdminClient:
    """A client that has reached Kafka, to be closed; `answer_ms` bounds each request. Raises
    Unavailable where nobody is there by then.
    """
    limits = {"bootstrap_timeout_ms": within_ms, "request_timeout_ms": answer_ms}
    try:
        return KafkaAdminClient(**kafka.admin(), **limits, client_id=client_id)
    except (KafkaError, ValueError, OSError) as error:
        raise Unavailable(
            f"Kafka at {kafka.bootstrap_servers} does not answer: {error}",
            remedy="Start it, or correct PENSTOCK_KAFKA__BOOTSTRAP_SERVERS",
        ) from error


def ensure_topics(kafka: KafkaSettings, topics: Sequence[Topic]) -> list[str]:
    """Creates what is missing, raises partitions and retention where the catalogue asks for more;
    returns the new names.

    Blocks for tens of milliseconds. Raises Unavailable within seconds while Kafka is away. Never
    lowers partitions or deletes a topic.
    """
    with closing(connect(kafka, "penstock-topics", within_ms=5_000, answer_ms=10_000)) as admin:
        try:
            present = {found["name"]: len(found["partitions"]) for found in admin.describe_topics()}
            missing = [topic for topic in topics if kafka.topic(topic.name) not in present]
            for topic in missing:
                _create(admin, kafka, topic)
            for topic in topics:
                if topic not in missing:
                    _adjust(admin, kafka.topic(topic.name), topic, present[kafka.topic(topic.name)])
        except (KafkaError, OSError) as error:
            raise Unavailable(
                f"Kafka at {kafka.bootstrap_servers} did not make the topics: {error}"
            ) from error
    return [kafka.topic(topic.name) for topic in missing]


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
