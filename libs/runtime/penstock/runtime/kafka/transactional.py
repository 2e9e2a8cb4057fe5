"""Consume, decide, produce: outcome and offsets in one Kafka transaction, so that each event has
its effect exactly once.

Downstream readers must read committed messages only (`isolation.level=read_committed`); both streams here do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Protocol

from confluent_kafka import Producer, TopicPartition

from penstock.contracts import metrics
from penstock.runtime.kafka.bounded import bounded
from penstock.runtime.kafka.group import BATCH, CALL_S, LINGER_S, Group, Waits, librdkafka_log
from penstock.runtime.kafka.messages import Batch, Committed, Outcome, Partition
from penstock.runtime.kafka.spans import batch_span
from penstock.runtime.messaging import GROUP, processing, sent
from penstock.runtime.metrics import histogram
from penstock.runtime.settings import KafkaSettings

_TRANSACTIONS = histogram(metrics.TRANSACTIONS)


class Processor(Protocol):
    """The work on one topic. All calls come from the stream's thread, one at a time."""

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        """Exactly these partitions of the topic are this replica's now, and start at what was
        committed: restore what is kept in memory about them, forget the others. Called at every
        rebalance; a partition that stayed comes with the position it was left at, and what is known
        of it still holds. Raises Unavailable to be called again.
        """

    def process(self, batch: Batch) -> Outcome:
        """Decides, and changes nothing: after an aborted transaction the same messages come again.
        What is kept in memory changes in `Outcome.committed`.
        """


class TransactionalStream:
    """A consumer group that answers each batch within one transaction.

        stream = TransactionalStream(settings.platform.kafka, group="penstock.ingest",
        replica=settings.replica, waits=service.readiness) # also while it runs, from any thread
        stream.add("credit-risk.applications.events.v1", processor) service.thread("stream",
        stream.run)

    `replica` must be stable over restarts and differ between replicas: it names the transactions
    (`<group>-<replica>`), so that a new process aborts at once what the dead one left open, and
    fences one that only seemed dead. Whatever fails for the time being, an aborted transaction or
    Kafka's absence, ends the session: the next one aborts what is open under the same name, asks
    what was committed, and goes on from there. A transaction whose end was not heard of is thereby
    told apart too. A fatal error raises StreamFailed, and the process must end: somebody else has
    its name.
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
        """`batch`: the most messages in one transaction; `linger_s`: how long to gather more after
        the first.
        """
        self._kafka = kafka
        self._name = group
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
        """Blocks until `stop` is set; the transaction in flight is finished. Raises StreamFailed
        and what a processor raises.
        """
        self._group.sessions(stop, lambda: self._session(stop))

    def _session(self, stop: threading.Event) -> None:
        with self._group.joined(self._assigned, _unconcerned):
            producer = self._open_producer()
            while not stop.is_set():
                if batches := self._group.gather().batches:
                    self._answer(producer, batches)

    def _answer(self, producer: Producer, batches: Sequence[Batch]) -> None:
        """One transaction. Each outcome is on its way to Kafka while the next batch is worked on."""
        outcomes: list[Outcome] = []
        with batch_span("process", batches):
            began = time.perf_counter()
            producer.begin_transaction()
            for batch in batches:
                with processing(batch.partition.topic, self._name, messages=len(batch.messages)):
                    outcome = self._processors[batch.partition.topic].process(batch)
                    self._produce(producer, outcome)
                outcomes.append(outcome)
            offsets = [
                TopicPartition(
                    self._kafka.topic(batch.partition.topic),
                    batch.partition.number,
                    batch.position,
                    metadata=outcome.metadata,
                )
                for batch, outcome in zip(batches, outcomes, strict=True)
            ]
            member = self._group.member()
            bounded(lambda: producer.send_offsets_to_transaction(offsets, member, CALL_S), 2 * CALL_S)
            producer.commit_transaction(CALL_S)
            _TRANSACTIONS.record(time.perf_counter() - began, {GROUP: self._name})
            for batch, outcome in zip(batches, outcomes, strict=True):
                self._group.advance(batch.partition, batch.position)
                outcome.committed()

    def _produce(self, producer: Producer, outcome: Outcome) -> None:
        produce = producer.produce
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
                    producer.poll(0.1)
        for topic, messages in Counter(map(itemgetter(0), outcome.produced)).items():
            sent(topic, messages)

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
        producer.init_transactions(CALL_S)
        return producer

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Committed offsets first: once they are stable, nobody who owned the partitions before can
        add to what the processors restore.
        """
        committed = self._group.committed(partitions)
        for topic, processor in list(self._processors.items()):
            mine = {
                partition.number: state for partition, state in committed.items() if partition.topic == topic
            }
            processor.assigned(mine)
        return {partition: state.position for partition, state in committed.items()}


def _unconcerned(partitions: Sequence[Partition]) -> None:
    """No transaction is open while partitions are revoked, and what processors know is sorted out
    when they are assigned.
    """
