"""Kafka in, data plane: batches of records into the lake."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pyarrow as pa
import structlog

from penstock.runtime.kafka.messages import Batch, Partition
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.batches import Received, table_of
from penstock_feature_store.lake.lake import SourceLake

log = structlog.get_logger(__name__)


class RecordsSink:
    """Routes each records topic to its lake. `write` returns when the batch is on disk, its position in the
    file's name.

    One process owns the lake by a lock on its folder, so no other can write while this one does,
    cut off from Kafka or not.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._lock = threading.Lock()
        self._topics: dict[str, tuple[SourceLake, pa.Schema]] = {}
        self._reached: dict[Partition, int] = {}

    def route(self, topic: str, lake: SourceLake, schema: pa.Schema) -> None:
        """Sends records of `topic` (the catalogue's name) to `lake`. Called before the stream is told of
        the topic.
        """
        with self._lock:
            self._topics[topic] = (lake, schema)

    def position(self, partition: Partition) -> int:
        """No committed record below it is missing from the lake."""
        lake, _ = self._topics[partition.topic]
        return max(lake.positions().get(partition.number, 0), self._reached.get(partition, 0))

    # -- the stream's side -------------------------------------------------------------------------

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        found = {}
        for partition in partitions:
            lake, _ = self._topics[partition.topic]
            position = lake.positions().get(partition.number)
            if position is not None:
                found[partition] = position
        return found

    def write(self, batch: Batch) -> None:
        lake, schema = self._topics[batch.partition.topic]
        received = [
            Received(message.offset, message.timestamp, message.value)
            for message in batch.messages
            if message.value
        ]
        first = lake.positions().get(batch.partition.number, batch.messages[0].offset)
        lake.append(batch.partition.number, first, batch.position, table_of(received, schema))
        self._arrivals.tell()

    def reached(self, partition: Partition, position: int) -> None:
        lake, _ = self._topics[partition.topic]
        held = lake.positions().get(partition.number, 0)
        if position < held:
            log.error(
                "records_topic_is_shorter_than_the_lake",
                topic=partition.topic,
                partition=partition.number,
                end=position,
                lake=held,
                remedy=(
                    "The topic was made anew: move the lake's folder of this source away to take its records"
                    " from the start"
                ),
            )
        self._reached[partition] = position
        self._arrivals.tell()

    def revoked(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._reached.pop(partition, None)
