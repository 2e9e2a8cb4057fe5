"""A Kafka transaction with the positions of what it was made from: messages and positions become
visible together or not at all.

Downstream readers must read committed messages only (`isolation.level=read_committed`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import itemgetter
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from penstock.contracts import metrics
from penstock.contracts.errors import Unavailable
from penstock.runtime.kafka.clients import CALL_S, bounded, transactional_producer
from penstock.runtime.kafka.messages import Committed, Partition, Produced
from penstock.runtime.messaging import GROUP, sent
from penstock.runtime.metrics import histogram
from penstock.runtime.settings import KafkaSettings

_TRANSACTIONS = histogram(metrics.TRANSACTIONS)
_NONE: Final[Mapping[Partition, Committed]] = {}
# Answers about a message, or a batch of them, which sending the same again does not change.
_REFUSALS: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class MessageRefused(KafkaException):
    """Kafka is there and does not take a message of the transaction, now or when it is sent again."""

    @property
    def may_pass(self) -> bool:
        """A right is missing: it may still be granted."""
        return bool(self.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED)


class Transactions:
    """A producer whose transactions bear one id, for the length of one session (`recovery.py`).

    Making it ends what a predecessor with this id left open, and fences one that only seemed dead.
    A transaction whose end was not heard of, for whatever is raised, ends the session: the next
    one's producer aborts it if it is still open, and the committed positions tell what became of it.
    """

    def __init__(
        self, kafka: KafkaSettings, transactional_id: str, *, group: str, compression: str = "none"
    ) -> None:
        """Blocks. `transactional_id` in Kafka's name; `group`: the consumer group that it works for, as
        the catalogue names it. Raises KafkaException and Unavailable.
        """
        self._kafka = kafka
        self._measured = {GROUP: group}
        self._refusals: list[KafkaError] = []
        self._producer = transactional_producer(
            kafka, transactional_id, compression=compression, on_failure=partial(_keep, self._refusals)
        )
        bounded(lambda: self._producer.init_transactions(CALL_S), 2 * CALL_S)

    def begin(self) -> None:
        self._began = time.perf_counter()
        self._refusals.clear()
        self._producer.begin_transaction()

    def produce(self, messages: Sequence[Produced]) -> None:
        """Adds messages to the transaction; they are on their way to Kafka meanwhile. Raises
        KafkaException, MessageRefused where it is one message's.
        """
        with self._judged():
            for message in messages:
                self._produce(message)
        for topic, count in Counter(map(itemgetter(0), messages)).items():
            sent(topic, count)

    def commit(self, positions: Mapping[Partition, Committed] = _NONE, member: Any = None) -> None:
        """Commits the messages and the group's positions. Blocks for 20 s at most. Without any, positions
        are messages of the transaction themselves, or there are none to keep.

        `member`: confluent-kafka's metadata of the group's member; Kafka refuses one that was
        replaced. Raises KafkaException, MessageRefused where it is one message's, and Unavailable where
        no answer came.
        """
        offsets = [
            TopicPartition(self._kafka.topic(where.topic), where.number, at.position, metadata=at.metadata)
            for where, at in positions.items()
        ]

        def commit() -> None:
            if offsets:
                self._producer.send_offsets_to_transaction(offsets, member, CALL_S)
            self._producer.commit_transaction(CALL_S)

        with self._judged():
            bounded(commit, 2 * CALL_S)
        _TRANSACTIONS.record(time.perf_counter() - self._began, self._measured)

    def abort(self) -> None:
        """Takes back what was begun, so that a successor with this id need not wait for Kafka to do so:
        half a second or more. What does not come of it the successor does. Blocks for 20 s at most.
        """
        with suppress(KafkaException, Unavailable):
            bounded(lambda: self._producer.abort_transaction(CALL_S), 2 * CALL_S)

    def _produce(self, message: Produced) -> None:
        topic, partition, key, value, headers = message
        name = self._kafka.topic(topic)
        while True:
            try:
                self._producer.produce(
                    name, value, key, partition, headers=list(headers) if headers else None
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Tells an error that is one message's from those of Kafka."""
        try:
            yield
        except KafkaException as error:
            self._producer.poll(0)  # for what was said about single messages
            _keep(self._refusals, error.args[0])
            if error.args[0].fatal() or not self._refusals:
                raise
            raise MessageRefused(self._refusals[0]) from error


def _keep(refusals: list[KafkaError], error: KafkaError, _message: object = None) -> None:
    if error.code() in _REFUSALS:
        refusals.append(error)
