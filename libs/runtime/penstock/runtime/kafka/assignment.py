"""Partitions that a group leaves out: nobody reads them, and nobody is told.

One member of a group, its leader, gives out the partitions, by what one broker tells it of the
topics. A broker that has not heard of a new topic yet makes it leave the topic out, and where the
members know the topic by then, nothing makes them join again. It has been seen when a cluster was
started: a topic was read by nobody until somebody joined or left. So whoever reads in a group looks
whether all of its partitions are given out, and joins anew if not.

By kafka-python: librdkafka 2.16 may end the process (`eonce->refcnt > 0`) when it is asked about a
group while brokers are lost.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

import structlog

from penstock.runtime.kafka.admin import connect
from penstock.runtime.settings import KafkaSettings

log = structlog.get_logger(__name__)

ANSWER_MS = 2_000
LOOKS, MOST_LOOKS = 2, 32


def left_out(kafka: KafkaSettings, group: str, topics: Collection[str]) -> set[str] | None:
    """`topic/partition` for each partition of `topics` that no member of `group` has, by the
    catalogue's names.

    None where that cannot be told: the group is being formed, or Kafka is away. Blocks for some
    round trips, some seconds at most.
    """
    names = {kafka.topic(topic): topic for topic in topics}
    try:
        with closing(connect(kafka, "penstock-groups", within_ms=ANSWER_MS, answer_ms=ANSWER_MS)) as admin:
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
    return {f"{names[topic]}/{number}" for topic, number in wanted - held}


class Assignment:
    """Of one group, look by look: what is left out at one look may have come into being since the
    group was formed.
    """

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._kafka = kafka
        self._group = group
        self._seen: dict[str, int] = {}
        self._looks = LOOKS

    def look(self, topics: Collection[str]) -> list[str]:
        """What is left out for the second look in a row; after that, where it lasts, for the
        fourth, the eighth and so on.

        Blocks as `left_out` does.
        """
        found = left_out(self._kafka, self._group, topics)
        if found is not None and not found:
            self._looks = LOOKS
        self._seen = {partition: self._seen.get(partition, 0) + 1 for partition in found or ()}
        lasting = sorted(partition for partition, looks in self._seen.items() if looks >= self._looks)
        if lasting:
            self._seen, self._looks = {}, min(2 * self._looks, MOST_LOOKS)
        return lasting
