"""Consume, decide, produce: outcome and offsets in one Kafka transaction, so that each event has its effect exactly once.

Downstream readers must read committed messages only (`isolation.level=read_committed`); both streams here do.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from penstock.runtime.settings import KafkaSettings
from penstock.runtime.stream.group import BATCH, CALL_S, LINGER_S, Group, StreamFailed, Waits, librdkafka_log
from penstock.runtime.stream.messages import Batch, Committed, Outcome, Partition
from penstock.runtime.stream.spans import batch_span

log = structlog.get_logger(__name__)

MAX_PAUSE_S = 5.0
"""Between tries of a batch whose transactions are aborted again and again."""


class Processor(Protocol):
    """The work on one topic. All calls come from the stream's thread, one at a time."""

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        """Exactly these partitions of the topic are this replica's now, and start at what was committed: restore what is kept in memory
        about them, forget the others. Called at every rebalance; a partition that stayed comes with the position it was left at, and what
        is known of it still holds. Raises Unavailable to be called again."""

    def process(self, batch: Batch) -> Outcome:
        """Decides, and changes nothing: after an aborted transaction the same messages come again. What is kept in memory changes in
        `Outcome.committed`."""


class TransactionalStream:
    """A consumer group that answers each batch within one transaction.

        stream = TransactionalStream(settings.platform.kafka, group="penstock.ingest", replica=settings.replica, waits=service.readiness)
        stream.add("credit-risk.applications.events.v1", processor)       # also while it runs, from any thread
        service.thread("stream", stream.run)

    `replica` must be stable over restarts and differ between replicas: it names the transactions (`<group>-<replica>`), so that a new
    process aborts at once what the dead one left open, and fences one that only seemed dead. What may succeed later is called again,
    without end, while Kafka is away; an abortable error aborts and reads the same messages again; a fatal one raises StreamFailed, and the
    process must end.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        group: str,
        replica: str,
        waits: Waits | None = None,
        batch: int = BATCH,
        linger_s: float = LINGER_S,
    ) -> None:
        """`batch`: the most messages in one transaction; `linger_s`: how long to gather more after the first."""
        self._kafka = kafka
        self._group = Group(kafka, name=group, waits=waits, batch=batch, linger_s=linger_s, ends=False)
        self._transactional_id = f"{self._group.name}-{replica}"
        self._processors: dict[str, Processor] = {}

    def add(self, topic: str, processor: Processor) -> None:
        """Subscribes to one more topic. Takes effect within half a second."""
        self._processors[topic] = processor
        self._group.add(topic)

    def remove(self, topic: str) -> None:
        """What is in flight is finished first."""
        self._group.remove(topic)

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set; the transaction in flight is finished. Raises StreamFailed and what a processor raises."""
        failures = 0
        with self._group.joined(stop, self._assigned, _unconcerned):
            self._producer = self._open_producer()
            while not stop.is_set():
                batches = self._group.gather().batches
                if not batches:
                    continue
                if self._answer(batches):
                    failures = 0
                else:
                    failures += 1
                    self._group.rewind([batch.partition for batch in batches])
                    stop.wait(min(MAX_PAUSE_S, 0.05 * 2**failures))

    def _answer(self, batches: Sequence[Batch]) -> bool:
        """False: aborted."""
        with batch_span("process", batches) as span:
            outcomes = [self._processors[batch.partition.topic].process(batch) for batch in batches]
            try:
                self._transact(batches, outcomes)
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
                log.warning("transaction_aborted", group=self._group.name, code=error.name(), error=error.str())
                span.add_event("aborted", {"error": error.str()})
                self._abort()
                return False
        for batch, outcome in zip(batches, outcomes, strict=True):
            self._group.advance(batch.partition, batch.position)
            outcome.committed()
        return True

    def _transact(self, batches: Sequence[Batch], outcomes: Sequence[Outcome]) -> None:
        """Raises KafkaException where the transaction must be aborted."""
        producer, insist = self._producer, self._group.insist
        offsets = [
            TopicPartition(self._kafka.topic(batch.partition.topic), batch.partition.number, batch.position, metadata=outcome.metadata)
            for batch, outcome in zip(batches, outcomes, strict=True)
        ]
        producer.begin_transaction()
        for outcome in outcomes:
            self._produce(outcome)
        member = self._group.member()
        insist(lambda: producer.send_offsets_to_transaction(offsets, member, CALL_S))
        insist(lambda: producer.commit_transaction(CALL_S))

    def _produce(self, outcome: Outcome) -> None:
        produce = self._producer.produce
        topics: dict[str, str] = {}
        for topic, partition, key, value, headers in outcome.produced:
            name = topics.get(topic)
            if name is None:
                name = topics[topic] = self._kafka.topic(topic)
            while True:
                try:
                    if headers:
                        produce(name, value, key, partition, headers=list(headers))
                    else:
                        produce(name, value, key, partition)
                    break
                except BufferError:
                    self._producer.poll(0.1)

    def _abort(self) -> None:
        try:
            self._group.insist(lambda: self._producer.abort_transaction(CALL_S))
        except KafkaException as error:
            raise StreamFailed(f"the transaction can be neither committed nor aborted: {error}") from error

    def _open_producer(self) -> Producer:
        producer = Producer(
            self._kafka.client(
                transactional_id=self._transactional_id,
                transaction_timeout_ms=10_000,
                retry_backoff_ms=1,
                linger_ms=0,
                acks="all",
            ),
            logger=librdkafka_log,
        )
        self._group.insist(lambda: producer.init_transactions(CALL_S))
        return producer

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Committed offsets first: once they are stable, nobody who owned the partitions before can add to what the processors restore."""
        committed = self._group.committed(partitions)
        for topic, processor in list(self._processors.items()):
            mine = {partition.number: state for partition, state in committed.items() if partition.topic == topic}
            self._group.insist(lambda processor=processor, mine=mine: processor.assigned(mine))  # type: ignore[misc]
        return {partition: state.position for partition, state in committed.items()}


def _unconcerned(partitions: Sequence[Partition]) -> None:
    """No transaction is open while partitions are revoked, and what processors know is sorted out when they are assigned."""
