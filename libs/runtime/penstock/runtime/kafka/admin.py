"""Asks Kafka's admin side, by kafka-python: topics are made and looked at, groups looked at.

librdkafka 2.16 may end the process (`eonce->refcnt > 0`) when its admin client asks while brokers
are lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from uuid import UUID

import structlog
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicIdError

from penstock.contracts.errors import Unavailable
from penstock.contracts.topics import DEAD_LETTERS, Topic
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)
# It warns at each connection without TLS; SECURITY.md says what is not encrypted.
logging.getLogger("kafka.net.sasl").setLevel(logging.ERROR)

CONNECT_MS = 5_000
ANSWER_MS = 10_000  # for one request that changes something; Kafka writes it on all replicas first
SETTLED_WITHIN_S, SETTLED_POLL_S = 10.0, 0.1  # a broker learns of a topic, and of its end, by itself
MadeTopic = tuple[str, UUID]
"""Name of a topic in Kafka, and the id that it got when it was made: the next of that name has another."""
LOOK_MS = 2_000  # to connect, and for one request, where somebody looks now and then


@contextmanager
def admin_client(
    kafka: KafkaSettings, purpose: str, *, within_ms: int = CONNECT_MS, answer_ms: int = ANSWER_MS
) -> Iterator[KafkaAdminClient]:
    """A client that has reached Kafka within `within_ms`; `answer_ms` bounds each request. Raises
    Unavailable where nobody is there by then, and for what Kafka does not do while inside.
    """
    try:
        client = KafkaAdminClient(
            **kafka.admin(),
            client_id=f"penstock-{purpose}",
            bootstrap_timeout_ms=within_ms,
            request_timeout_ms=answer_ms,
        )
    except (KafkaError, ValueError, OSError) as error:
        raise Unavailable(
            f"Kafka at {kafka.bootstrap_servers} does not answer: {error}",
            remedy="Start it, or correct PENSTOCK_KAFKA__BOOTSTRAP_SERVERS",
        ) from error
    with closing(client):
        try:
            yield client
        except (KafkaError, OSError) as error:
            raise Unavailable(
                f"Kafka at {kafka.bootstrap_servers} does not serve {purpose}: {error}"
            ) from error


def answers(kafka: KafkaSettings) -> bool:
    """Tells whether a new client reaches Kafka. Blocks for two seconds at most where it does not."""
    try:
        with admin_client(kafka, "watch", within_ms=LOOK_MS, answer_ms=LOOK_MS):
            return True
    except Unavailable:
        return False


def ensure_topics(kafka: KafkaSettings, topics: Sequence[Topic]) -> None:
    """Creates what is missing, raises partitions and retention where the catalogue asks for more.

    Returns once a broker knows each topic, which it hears of from the controller: after tens of
    milliseconds. Raises Unavailable within seconds while Kafka is away. Never lowers partitions or
    deletes a topic.
    """
    with admin_client(kafka, "topics") as admin:
        present = {found["name"]: len(found["partitions"]) for found in admin.describe_topics()}
        names = {kafka.topic(topic.name): topic for topic in topics}
        for name in names.keys() & present:
            _adjust(admin, name, names[name], present[name])
        missing = {name: names[name] for name in names.keys() - present}
        _create(admin, missing, kafka.replication)
        admin.wait_for_topics(list(missing), SETTLED_WITHIN_S * 1000)


def topics_made(kafka: KafkaSettings, topics: Collection[str]) -> frozenset[MadeTopic]:
    """Finds those of `topics` that exist, and their dead letters. Blocks for some round trips; raises
    Unavailable.
    """
    with admin_client(kafka, "deletion") as admin:
        return _made(admin, {kafka.topic(topic) for topic in topics})


def remove_topics(kafka: KafkaSettings, made: Collection[MadeTopic]) -> None:
    """Deletes topics, and returns once no broker knows them; one that was made since under the name of
    one stays. Blocks for some round trips, SETTLED_WITHIN_S at most; raises Unavailable.
    """
    if not made:
        return
    names = {name for name, _ in made}
    deadline = time.monotonic() + SETTLED_WITHIN_S
    with admin_client(kafka, "deletion") as admin:
        while left := _made(admin, names) & set(made):
            if time.monotonic() > deadline:
                raise Unavailable(f"Kafka has not deleted {len(left)} topics within {SETTLED_WITHIN_S:g} s")
            with suppress(UnknownTopicIdError):  # asked for already
                admin.delete_topics([number for _, number in sorted(left)])
            time.sleep(SETTLED_POLL_S)
    for name, _ in sorted(made):
        log.info("topic_deleted", topic=name)


def _made(admin: KafkaAdminClient, names: Collection[str]) -> frozenset[MadeTopic]:
    """Finds those of `names` that exist, and their dead letters."""
    return frozenset(
        (found["name"], UUID(str(found["topic_id"])))
        for found in admin.describe_topics()
        if found["name"] in names or _of_letters(found["name"]) in names
    )


def _of_letters(name: str) -> str:
    """Name of the topic whose dead letters lie in this one; empty where it is no such topic."""
    return name.rpartition(".penstock.")[0] if name.endswith(DEAD_LETTERS) else ""


def end_offsets(kafka: KafkaSettings, topics: Collection[str]) -> dict[Partition, int]:
    """The next offset to be written of each partition of `topics`; a topic that does not exist has
    none. Blocks for some round trips. Raises Unavailable.
    """
    names = {kafka.topic(topic): topic for topic in topics}
    with admin_client(kafka, "offsets", answer_ms=CONNECT_MS) as admin:
        asked = {
            TopicPartition(topic["name"], partition["partition_index"]): OffsetSpec.LATEST
            for topic in admin.describe_topics(list(names))
            for partition in topic["partitions"]
        }
        found = admin.list_partition_offsets(asked) if asked else {}
    return {Partition(names[place.topic], place.partition): end.offset for place, end in found.items()}


def left_out(kafka: KafkaSettings, group: str, topics: Collection[str]) -> set[str] | None:
    """`topic/partition` of each partition of `topics` that no member of `group` has.

    None where that cannot be told: the group is being formed, or Kafka is away. Blocks for some
    round trips, some seconds at most.
    """
    names = {kafka.topic(topic): topic for topic in topics}
    try:
        with admin_client(kafka, "groups", within_ms=LOOK_MS, answer_ms=LOOK_MS) as admin:
            described = admin.describe_groups([kafka.topic(group)])[kafka.topic(group)]
            present = admin.describe_topics(list(names))
    except Exception as error:  # whoever looks goes on, whatever becomes of the look
        log.debug("group_not_seen", group=group, why=f"{type(error).__name__}: {error}")
        return None
    if described["group_state"] != "Stable":
        return None
    held = {
        (given["topic"], number)
        for member in described["members"]
        for given in (member["member_assignment"] or {}).get("assigned_partitions", ())
        for number in given["partitions"]
    }
    wanted = {
        (topic["name"], partition["partition_index"])
        for topic in present
        for partition in topic["partitions"]
    }
    return {f"{names[name]}/{number}" for name, number in wanted - held}


def _create(admin: KafkaAdminClient, topics: Mapping[str, Topic], replication: int) -> None:
    new = [
        NewTopic(
            name=name,
            num_partitions=topic.partitions,
            replication_factor=replication,
            topic_configs=topic.config,
        )
        for name, topic in topics.items()
    ]
    try:
        if new:
            admin.create_topics(new)
    except TopicAlreadyExistsError:  # another replica was faster with some of them
        for one in new:
            with suppress(TopicAlreadyExistsError):
                admin.create_topics([one])
    for name, topic in topics.items():
        log.info("topic_created", topic=name, partitions=topic.partitions, **topic.config)


def _adjust(admin: KafkaAdminClient, name: str, topic: Topic, partitions: int) -> None:
    if topic.partitions > partitions:
        admin.create_partitions({name: NewPartitions(total_count=topic.partitions)})
        log.info("topic_widened", topic=name, partitions=topic.partitions)
    if topic.cleanup == "delete" and topic.retention_ms > 0 and _differs(admin, name, topic.config):
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=topic.config)])


def _differs(admin: KafkaAdminClient, name: str, config: dict[str, str]) -> bool:
    """Asks first: most services may look at a topic's settings, and not change them."""
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
    now = found["topic"][name]
    return any(now[key]["value"] != value for key, value in config.items())
