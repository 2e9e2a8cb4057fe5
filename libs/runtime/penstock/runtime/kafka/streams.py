"""Two streams of batches: one answers each batch within a Kafka transaction, so that each event has
its effect exactly once; one gives them to a sink that keeps the position with its data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol

from confluent_kafka import KafkaException

from penstock.runtime.dead_letters import DeadLetters
from penstock.runtime.kafka.group import BATCH, LINGER_S, Member
from penstock.runtime.kafka.messages import BEGINNING, Batch, Committed, Outcome, Partition, Produced, Send
from penstock.runtime.kafka.positions import UNASSIGNED, Gathered
from penstock.runtime.kafka.reading import committed, topic_partition
from penstock.runtime.kafka.spans import batch_span
from penstock.runtime.kafka.transaction import Transactions
from penstock.runtime.messaging import processing
from penstock.runtime.readiness import Readiness
from penstock.runtime.router import may_pass
from penstock.runtime.settings import KafkaSettings


class Processor(Protocol):
    """The work on one topic. All calls come from the stream's thread, one at a time."""

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        """Exactly these partitions of the topic are this replica's now, and start at what was
        committed: restore what is kept in memory about them, forget the others. Called at every
        rebalance; a partition that stayed comes with the position it was left at, and what is known
        of it still holds. Raises Unavailable to be called again.
        """

    def process(self, batch: Batch, send: Send) -> Outcome:
        """Decides, and changes nothing: after an aborted transaction the same messages come again.
        What is kept in memory changes in `Outcome.committed`. Where it raises what will not pass, the
        messages that it raises for alone are left out as dead letters.

        `send` adds messages to the transaction, which Kafka takes while the next are made: a part at
        a time is faster than all at the end.
        """


class TransactionalStream(Member):
    """A consumer group that answers each batch within one transaction.

        stream = TransactionalStream(
            settings.platform.kafka,
            group="penstock.ingest",
            replica=settings.replica,
            readiness=service.readiness,
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
        readiness: Readiness | None = None,
        batch: int = BATCH,
        linger_s: float = LINGER_S,
    ) -> None:
        """`batch`: the most messages in one transaction; `linger_s`: seconds between two that are not
        full.
        """
        super().__init__(kafka, group, readiness, batch=batch, linger_s=linger_s)
        self._transactional_id = kafka.topic(f"{group}-{replica}")
        self._processors: dict[str, Processor] = {}
        self._letters = DeadLetters(kafka, group)

    def add(self, topic: str, processor: Processor) -> None:
        """Subscribes to one more topic, within half a second. From any thread."""
        self._processors[topic] = processor
        self.subscribe(topic)

    def _begin(self) -> Callable[[Gathered], None]:
        transactions = Transactions(self._kafka, self._transactional_id, group=self._group)
        return partial(self._answer, transactions)

    def _answer(self, transactions: Transactions, gathered: Gathered) -> None:
        """Answers in one transaction."""
        if not (batches := self._up_to_the_ends(gathered)):
            return
        with batch_span("process", batches):
            try:
                outcomes = self._processed(transactions, batches)
            except Exception as error:
                if isinstance(error, KafkaException) or may_pass(error):
                    raise
                transactions.abort()  # parts of the batch may be in it
                batches = [self._without_unfit(batch) for batch in batches]
                outcomes = self._processed(transactions, batches)
            answered = list(zip(batches, outcomes, strict=True))
            transactions.commit(
                {batch.partition: Committed(batch.position, outcome.metadata) for batch, outcome in answered},
                self._client.consumer_group_metadata(),
            )
            for batch, outcome in answered:
                self._advance(batch.partition, batch.position)
                outcome.committed()

    def _processed(self, transactions: Transactions, batches: Sequence[Batch]) -> list[Outcome]:
        """Begins a transaction and answers the batches in it."""
        transactions.begin()
        outcomes = []
        for batch in batches:
            topic = batch.partition.topic
            with processing(topic, self._group, messages=len(batch.messages)):
                outcomes.append(self._processors[topic].process(batch, transactions.produce))
        return outcomes

    def _up_to_the_ends(self, gathered: Gathered) -> list[Batch]:
        """The batches, each up to its log's end where that was reached. Markers of transactions lie
        behind the last message there: whoever waits until all below the end is answered would wait
        for the next message. So an end that only markers led to is a batch without messages.
        """
        ends = dict(gathered.ends)
        batches = [
            replace(batch, position=max(batch.position, ends.pop(batch.partition, 0)))
            for batch in gathered.batches
        ]
        ahead = ((partition, end, self._positions.of(partition)) for partition, end in ends.items())
        # From the beginning on, too: there may be nothing but markers.
        return batches + [
            Batch(partition, (), end) for partition, end, at in ahead if at != UNASSIGNED and max(at, 0) < end
        ]

    def _without_unfit(self, batch: Batch) -> Batch:
        """The batch without the messages that cannot be processed even alone: those become dead
        letters.
        """
        process = self._processors[batch.partition.topic].process
        unfit: dict[int, Exception] = {}
        for message in batch.messages:
            try:
                process(replace(batch, messages=[message]), _nowhere)
            except Exception as error:
                if may_pass(error):
                    raise
                unfit[message.offset] = error
        self._letters.put_all(batch.partition, list(unfit.items()))
        return replace(batch, messages=[one for one in batch.messages if one.offset not in unfit])

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Committed offsets first: once they are stable, nobody who owned the partitions before can
        add to what the processors restore. They sort out here, too, what was revoked: no
        transaction is open then.
        """
        states = committed(self._kafka, self._client, partitions)
        for topic, processor in list(self._processors.items()):
            processor.assigned(
                {where.number: state for where, state in states.items() if where.topic == topic}
            )
        return {partition: state.position for partition, state in states.items()}


def _nowhere(_: Sequence[Produced]) -> None:
    """Sends nothing: the batch is only tried."""


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


class PositionedStream(Member):
    """A consumer group whose positions are its sink's, not Kafka's.

        stream = PositionedStream(
            settings.platform.kafka, group="penstock.feature_store", sink=lake, readiness=service.readiness
        )
        stream.subscribe("credit-risk.applications.records.v1")   # also while it runs, from any thread
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
        readiness: Readiness | None = None,
        batch: int = BATCH,
        linger_s: float = LINGER_S,
    ) -> None:
        """`batch`: the most messages in one call of `write`; `linger_s`: seconds between two
        calls for a partition that are not full.
        """
        super().__init__(kafka, group, readiness, batch=batch, linger_s=linger_s)
        self._sink = sink
        self._reached: dict[Partition, int] = {}

    def _begin(self) -> Callable[[Gathered], None]:
        return self._write

    def _write(self, gathered: Gathered) -> None:
        for batch in gathered.batches:
            topic, messages = batch.partition.topic, len(batch.messages)
            with batch_span("write", [batch]), processing(topic, self._group, "write", messages):
                self._sink.write(batch)
            self._advance(batch.partition, batch.position)
        if gathered.batches:
            offsets = [topic_partition(self._kafka, one.partition, one.position) for one in gathered.batches]
            with suppress(KafkaException):  # only shows the lag to other tools: not waited for
                self._client.commit(offsets=offsets, asynchronous=True)
        for partition, position in gathered.ends.items():
            if self._reached.get(partition) != position:
                self._reached[partition] = position
                self._sink.reached(partition, position)

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        positions = self._sink.assigned(partitions)
        self._reached.clear()
        return {partition: positions.get(partition, BEGINNING) for partition in partitions}

    def _revoked(self, partitions: Sequence[Partition]) -> None:
        self._sink.revoked(partitions)
