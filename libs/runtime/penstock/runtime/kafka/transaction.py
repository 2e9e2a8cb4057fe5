"""A Kafka transaction with the positions of what it was made from: messages and positions become
visible together or not at all.

Downstream readers must read committed messages only (`isolation.level=read_committed`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from confluent_kafka import TopicPartition

from penstock.contracts import metrics
from penstock.runtime.kafka.clients import CALL_S, bounded, transactional_producer
from penstock.runtime.kafka.messages import Committed, Partition, Produced
from penstock.runtime.messaging import GROUP, sent
from penstock.runtime.metrics import histogram
from penstock.runtime.settings import KafkaSettings

_TRANSACTIONS = histogram(metrics.TRANSACTIONS)
_NONE: Final[Mapping[Partition, Committed]] = {}


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
        self._producer = transactional_producer(kafka, transactional_id, compression=compression)
        bounded(lambda: self._producer.init_transactions(CALL_S), 2 * CALL_S)

    def begin(self) -> None:
        self._began = time.perf_counter()
        self._producer.begin_transaction()

    def produce(self, messages: Sequence[Produced]) -> None:
        """Adds messages to the transaction; they are on their way to Kafka meanwhile."""
        for topic, partition, key, value, headers in messages:
            name = self._kafka.topic(topic)
            while True:
                try:
                    self._producer.produce(name, value, key, partition, headers=list(headers or ()))
                    break
                except BufferError:
                    self._producer.poll(0.1)
        for topic, count in Counter(map(itemgetter(0), messages)).items():
            sent(topic, count)

    def commit(self, positions: Mapping[Partition, Committed] = _NONE, member: Any = None) -> None:
        """Commits the messages and the group's positions. Blocks for 20 s at most. Without any, positions
        are messages of the transaction themselves, or there are none to keep.

        `member`: confluent-kafka's metadata of the group's member; Kafka refuses one that was
        replaced. Raises KafkaException, and Unavailable where no answer came.
        """
        offsets = [
            TopicPartition(self._kafka.topic(where.topic), where.number, at.position, metadata=at.metadata)
            for where, at in positions.items()
        ]

        def commit() -> None:
            if offsets:
                self._producer.send_offsets_to_transaction(offsets, member, CALL_S)
            self._producer.commit_transaction(CALL_S)

        bounded(commit, 2 * CALL_S)
        _TRANSACTIONS.record(time.perf_counter() - self._began, self._measured)
