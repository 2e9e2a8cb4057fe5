"""Batches to a sink that keeps the consumer's position with its data."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock.contracts import metrics
from penstock.runtime.kafka.group import BATCH, LINGER_S, Member
from penstock.runtime.kafka.messages import BEGINNING, Batch, Partition
from penstock.runtime.kafka.recovery import Recovery, Waits
from penstock.runtime.kafka.spans import batch_span
from penstock.runtime.messaging import processing
from penstock.runtime.metrics import observed
from penstock.runtime.settings import KafkaSettings


class Sink(Protocol):
    """Holds what it was given and how far. All calls come from the stream's thread, one at a time."""

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Takes over partitions that are this replica's now (a new owner epoch) and returns the next
        offset to read of each, from the data itself. A partition that is left out starts at
        the beginning. Raises to stop the stream (the process starts again).
        """

    def write(self, batch: Batch) -> None:
        """Makes the batch and `batch.position` durable, both or neither, before it returns. Must
        tell by its own epoch when another replica has taken the partition over (this one was cut
        off and does not know yet) and raise.
        """

    def reached(self, partition: Partition, position: int) -> None:
        """Nothing committed lies below `position` that was not given to `write`: the log's end was
        reached. Transaction markers take offsets, so this is ahead of the last batch's position.
        Called when it has changed; need not be durable.
        """

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Another replica may own these from now on. All given to `write` has returned. May name
        partitions that were never assigned.
        """


class PositionedStream:
    """A consumer group whose positions are its sink's, not Kafka's.

        stream = PositionedStream(
            settings.platform.kafka, group="penstock.feature_store", sink=lake, waits=service.readiness
        )
        stream.add("credit-risk.applications.records.v1")         # also while it runs, from any thread
        service.thread("records", stream.run)

    Delivery: at least once into `write`, in order by partition, committed messages only; exactly
    once when the sink keeps position and data together. The position is also committed to the group
    after each write, for tools that show lag; nothing reads it back. Adding a topic makes the group
    rebalance: the sink sees `revoked` and `assigned` for all partitions; an epoch more does no
    harm.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        group: str,
        sink: Sink,
        waits: Waits | None = None,
        batch: int = BATCH,
        linger_s: float = LINGER_S,
    ) -> None:
        """`batch`: the most messages in one call of `write`; `linger_s`: seconds to gather more
        after the first.
        """
        self._sink = sink
        self._group = group
        self._recovery = Recovery(group, waits)
        self._member = Member(kafka, group, self._recovery, batch=batch, linger_s=linger_s, ends=True)
        self._reached: dict[Partition, int] = {}

    def add(self, topic: str) -> None:
        """Subscribes to one more topic. Takes effect within half a second."""
        self._member.add(topic)

    def remove(self, topic: str) -> None:
        self._member.remove(topic)

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set. Goes on by itself when Kafka has been away. Raises what the
        sink raises, and ClientFailed.
        """
        with observed(metrics.LAG, self._member.positions.lags):
            self._recovery.run(stop, lambda: self._session(stop))

    def _session(self, stop: threading.Event) -> None:
        with self._member.joined(self._assigned, self._sink.revoked):
            while not stop.is_set():
                gathered = self._member.gather()
                for batch in gathered.batches:
                    topic, messages = batch.partition.topic, len(batch.messages)
                    with batch_span("write", [batch]), processing(topic, self._group, "write", messages):
                        self._sink.write(batch)
                    self._member.advance(batch.partition, batch.position)
                self._member.commit_for_show([batch.partition for batch in gathered.batches])
                for partition, position in gathered.ends.items():
                    if self._reached.get(partition) != position:
                        self._reached[partition] = position
                        self._sink.reached(partition, position)

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        positions = self._sink.assigned(partitions)
        self._reached.clear()
        return {partition: positions.get(partition, BEGINNING) for partition in partitions}
