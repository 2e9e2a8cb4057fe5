"""Consume, decide, produce: outcome and offsets in one Kafka transaction, so that each event has
its effect exactly once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock.contracts import metrics
from penstock.runtime.kafka.group import BATCH, LINGER_S, Member
from penstock.runtime.kafka.messages import Batch, Committed, Outcome, Partition
from penstock.runtime.kafka.recovery import Recovery, Waits
from penstock.runtime.kafka.spans import batch_span
from penstock.runtime.kafka.transaction import Transactions
from penstock.runtime.messaging import processing
from penstock.runtime.metrics import observed
from penstock.runtime.settings import KafkaSettings


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

        stream = TransactionalStream(
            settings.platform.kafka,
            group="penstock.ingest",
            replica=settings.replica,
            waits=service.readiness,
        )
        stream.add("credit-risk.applications.events.v1", processor)  # also while it runs
        service.thread("stream", stream.run)

    `replica` must be stable over restarts and differ between replicas: it names the transactions
    (`<group>-<replica>`), so that a new process aborts at once what the dead one left open, and
    fences one that only seemed dead.
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
        """`batch`: the most messages in one transaction; `linger_s`: seconds to gather more after
        the first.
        """
        self._kafka = kafka
        self._group = group
        self._transactional_id = kafka.topic(f"{group}-{replica}")
        self._recovery = Recovery(group, waits)
        self._member = Member(kafka, group, self._recovery, batch=batch, linger_s=linger_s, ends=False)
        self._processors: dict[str, Processor] = {}

    def add(self, topic: str, processor: Processor) -> None:
        """Subscribes to one more topic, within half a second. From any thread."""
        self._processors[topic] = processor
        self._member.add(topic)

    def remove(self, topic: str) -> None:
        """Ends the subscription; what is in flight is finished first."""
        self._member.remove(topic)

    def run(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set; the transaction in flight is finished. Raises ClientFailed,
        and what a processor raises.
        """
        with observed(metrics.LAG, self._member.positions.lags):
            self._recovery.run(stop, lambda: self._session(stop))

    def _session(self, stop: threading.Event) -> None:
        with self._member.joined(self._assigned, _unconcerned):
            transactions = Transactions(self._kafka, self._transactional_id, group=self._group)
            while not stop.is_set():
                if batches := self._member.gather().batches:
                    self._answer(transactions, batches)

    def _answer(self, transactions: Transactions, batches: Sequence[Batch]) -> None:
        """One transaction. Each outcome is on its way to Kafka while the next batch is worked on."""
        outcomes: list[Outcome] = []
        with batch_span("process", batches):
            transactions.begin()
            for batch in batches:
                with processing(batch.partition.topic, self._group, messages=len(batch.messages)):
                    outcome = self._processors[batch.partition.topic].process(batch)
                    transactions.produce(outcome.produced)
                outcomes.append(outcome)
            answered = list(zip(batches, outcomes, strict=True))
            transactions.commit(
                {batch.partition: Committed(batch.position, outcome.metadata) for batch, outcome in answered},
                self._member.metadata(),
            )
            for batch, outcome in answered:
                self._member.advance(batch.partition, batch.position)
                outcome.committed()

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Committed offsets first: once they are stable, nobody who owned the partitions before can
        add to what the processors restore.
        """
        committed = self._member.committed(partitions)
        for topic, processor in list(self._processors.items()):
            processor.assigned(
                {where.number: state for where, state in committed.items() if where.topic == topic}
            )
        return {partition: state.position for partition, state in committed.items()}


def _unconcerned(partitions: Sequence[Partition]) -> None:
    """No transaction is open while partitions are revoked, and what processors know is sorted out
    when they are assigned.
    """
