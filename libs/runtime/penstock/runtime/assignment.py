"""Partitions that a group leaves out: nobody reads them, and nobody is told.

One member of a group, its leader, gives out the partitions, by what one broker tells it of the topics. A broker that has not heard of a new
topic yet makes it leave the topic out, and where the members know the topic by then, librdkafka (2.16) sees no change that would make them
join again. It has been seen when a cluster was started: the topic was read by nobody until somebody joined or left. So whoever reads in a
group looks whether all of its partitions are given out, and joins anew if not.
"""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import ConsumerGroupState, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

ANSWER_S = 2.0


def left_out(admin: AdminClient, group: str, topics: Collection[str]) -> set[str] | None:
    """`topic/partition` for each partition of `topics` that no member has; None where that cannot be told.

    It cannot while the group is being formed or Kafka is away. All by Kafka's names. Blocks for two round trips.
    """
    try:
        described = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group].result()
        if described.state != ConsumerGroupState.STABLE:
            return None
        held = {f"{has.topic}/{has.partition}" for member in described.members for has in member.assignment.topic_partitions}
        present: set[str] = set()
        for topic, found in admin.describe_topics(TopicCollection(list(topics)), request_timeout=ANSWER_S).items():
            try:
                present |= {f"{topic}/{partition.id}" for partition in found.result().partitions}
            except KafkaException:
                continue  # there is no such topic yet, or no more
        return present - held
    except KafkaException:
        return None


class Assignment:
    """Of one group, look by look: what is left out at one look may have come into being since the group was formed."""

    def __init__(self, admin: AdminClient, group: str) -> None:
        self._admin = admin
        self._group = group
        self._before: set[str] = set()

    def look(self, topics: Collection[str]) -> list[str]:
        """What is left out for the second time. Blocks as `left_out` does."""
        found = left_out(self._admin, self._group, topics) or set()
        lasting = self._before & found
        self._before = found - lasting
        return sorted(lasting)
