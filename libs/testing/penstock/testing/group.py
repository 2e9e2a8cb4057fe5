"""A consumer group's leader that leaves out a topic, as one does that has asked a broker which
knows less than the others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.assignors.abstract import ConsumerProtocolAssignment
from kafka.coordinator.assignors.range import RangePartitionAssignor

from penstock.runtime.settings import KafkaSettings
from penstock.testing.threads import beside
from penstock.testing.wait import until


@contextmanager
def leading(
    kafka: KafkaSettings, group: str, topics: Sequence[str], *, leaves_out: str, strategy: str
) -> Iterator[None]:
    """Leads `group` while inside, and reads nothing. The first time that another member is there it
    does not give out `leaves_out`.
    """

    class LeavesOut(RangePartitionAssignor):  # type: ignore[misc]  # kafka-python has no types
        name = strategy
        formed = 0  # times that another member was given partitions

        @classmethod
        def assign(cls, cluster: Any, members: Any) -> dict[str, Any]:
            others = [
                member
                for member in members
                if member.member_id != consumer._coordinator._generation.member_id
            ]
            given: dict[str, Any] = super().assign(cluster, others)
            if others:
                cls.formed += 1
            if cls.formed == 1:
                given = {
                    name: _without(assignment, kafka.topic(leaves_out)) for name, assignment in given.items()
                }
            return {
                member.member_id: ConsumerProtocolAssignment(cls.version, [], b"") for member in members
            } | given

    consumer = KafkaConsumer(
        *map(kafka.topic, topics),
        **kafka.admin(),
        group_id=kafka.topic(group),
        partition_assignment_strategy=[LeavesOut],
        heartbeat_interval_ms=200,
    )

    with _polled(consumer):
        until(lambda: consumer._coordinator._generation.member_id, within=30, what=f"{group} has its leader")
        yield


@contextmanager
def _polled(consumer: KafkaConsumer) -> Iterator[None]:
    def poll(stop: threading.Event) -> None:
        while not stop.is_set():
            consumer.poll(timeout_ms=100)

    try:
        with beside(poll):
            yield
    finally:
        consumer.close()


def _without(assignment: Any, topic: str) -> Any:
    kept = [(name, partitions) for name, partitions in assignment.assigned_partitions if name != topic]
    return ConsumerProtocolAssignment(assignment.version, kept, assignment.user_data)
