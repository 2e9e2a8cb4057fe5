"""Kafka in, data plane: batches of records into the lake."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pyarrow as pa
import structlog

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import source_topic
from penstock.runtime.dead_letters import DeadLetters
from penstock.runtime.kafka.messages import Batch, Partition
from penstock.runtime.kafka.streams import PositionedStream
from penstock.runtime.readiness import Readiness
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.batches import META, Received, divided, source_schema
from penstock_feature_store.lake.lake import SourceLake
from penstock_feature_store.settings import Settings

log = structlog.get_logger(__name__)


# Apart from the control plane's group: each subscribes to other topics.
GROUP = "penstock.feature_store.records"


class Records:
    """Records of the owned sources, each topic's into its lake. `write` returns when the batch is on
    disk, its position in the file's name.

    One process owns the lake by a lock on its folder, so no other can write while this one does,
    cut off from Kafka or not.
    """

    def __init__(self, settings: Settings, arrivals: Arrivals, readiness: Readiness) -> None:
        self._arrivals = arrivals
        self._topics: dict[str, tuple[SourceLake, pa.Schema]] = {}
        self._reached: dict[Partition, int] = {}
        self._writing = threading.Lock()
        self.letters = DeadLetters(settings.platform.kafka, GROUP)
        self.stream = PositionedStream(
            settings.platform.kafka,
            group=GROUP,
            sink=self,
            readiness=readiness,
            batch=settings.batch,
            linger_s=settings.linger_s,
        )

    def add(self, pipeline: Pipeline, source: str, lake: SourceLake) -> None:
        """Follows a source of the pipeline as it is now, also one that is followed already."""
        topic = source_topic("records", pipeline.pipeline, source)
        self._topics[topic] = (lake, source_schema(pipeline.sources[source]))
        self.stream.subscribe(topic)
        self._arrivals.tell()

    def remove(self, pipeline: str, source: str) -> None:
        """Follows it no more. Blocks while a batch is written: after it, none of the source is."""
        topic = source_topic("records", pipeline, source)
        self.stream.remove(topic)
        with self._writing:
            self._topics.pop(topic, None)

    def position(self, partition: Partition) -> int:
        """No committed record below it is missing from the lake."""
        return max(self._held(partition) or 0, self._reached.get(partition, 0))

    def _held(self, partition: Partition) -> int | None:
        followed = self._topics.get(partition.topic)
        return followed[0].positions().get(partition.number) if followed else None

    # -- the stream's side -------------------------------------------------------------------------

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        held = {partition: self._held(partition) for partition in partitions}
        return {partition: position for partition, position in held.items() if position is not None}

    def write(self, batch: Batch) -> None:
        with self._writing:
            if followed := self._topics.get(batch.partition.topic):  # else no longer, since it was read
                self._append(batch, *followed)

    def _append(self, batch: Batch, lake: SourceLake, schema: pa.Schema) -> None:
        received = [
            Received(message.offset, message.timestamp, message.value or b"") for message in batch.messages
        ]
        table, unfit = divided(received, schema)
        if unfit and not table.num_rows and not lake.positions():
            # A source without data may change its types, and ingest may be told of it first.
            table, unfit = divided(received, META)
        self.letters.put_all(batch.partition, unfit)
        first = lake.positions().get(batch.partition.number, batch.messages[0].offset)
        lake.append(batch.partition.number, first, batch.position, table)
        self._arrivals.tell()

    def reached(self, partition: Partition, position: int) -> None:
        held = self._held(partition) or 0
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
