"""Read your writes: waits until the lake holds what became of events that were published before.

An event becomes a record, or it was a reject or a duplicate and becomes none. So an event below
`offset` is settled when the lake holds a record of that partition's event at `offset` or later, for
ingest answers in order; or when ingest's group has committed `offset`, and the lake has everything
that the records partition held at that moment. Ingest writes its records before its transaction
commits the offset, so the partition's end (the high watermark, not the last stable offset: commit
markers may still be on their way) covers them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from penstock.contracts.errors import DeadlineExceeded, Invalid, Unavailable
from penstock.contracts.topics import source_topic
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.records import RecordsSink
from penstock_feature_store.pipelines import Owned

INGEST_GROUP = "penstock.ingest"
ASK_AGAIN_S = 0.2
ANSWER_S = 5.0
"""Seconds that one answer of Kafka's is waited for."""


class Below(NamedTuple):
    """All events of a partition below an offset."""

    source: str
    partition: int
    offset: int


class Barrier:
    def __init__(self, kafka: KafkaSettings, sink: RecordsSink, arrivals: Arrivals) -> None:
        self._kafka = kafka
        self._sink = sink
        self._arrivals = arrivals

    def read(self, held: Owned, offsets: Sequence[tuple[str, int, int]]) -> list[Below]:
        """(topic, partition, offset) as a client gave them, with or without the installation's
        prefix. Raises Invalid.
        """
        topics = {
            source_topic("events", held.pipeline.pipeline, source): source for source in held.pipeline.sources
        }
        found = []
        for topic, partition, offset in offsets:
            name = topic.removeprefix(self._kafka.topic_prefix)
            if name not in topics:
                raise Invalid(
                    f"`{topic}` is no events topic of {held.pipeline.pipeline}",
                    where="min_offsets",
                    remedy=f"Use {', '.join(topics)}",
                )
            if partition < 0 or offset < 0:
                raise Invalid(
                    f"{topic} has no partition {partition} or offset {offset}",
                    where="min_offsets",
                    remedy="Give those that Kafka acknowledged",
                )
            found.append(Below(topics[name], partition, offset))
        return found

    async def wait(self, held: Owned, offsets: Sequence[Below], timeout_s: float) -> None:
        """Raises DeadlineExceeded that says what is missing, Unavailable when Kafka does not answer
        all that time.
        """
        until = time.monotonic() + timeout_s
        waiting = [below for below in offsets if not self._held_already(held, below)]
        ends: dict[Below, int] = {}
        trouble: Unavailable | None = None
        while waiting:
            seen = self._arrivals.count
            try:
                unknown = [below for below in waiting if below not in ends]
                ends |= await asyncio.to_thread(self._answered, held, unknown) if unknown else {}
                trouble = None
            except Unavailable as error:
                trouble = error
            waiting = [
                below
                for below in waiting
                if not (self._held_already(held, below) or self._holds(held, below, ends))
            ]
            if waiting and time.monotonic() >= until:
                raise self._late(held, waiting, ends, timeout_s, trouble)
            if waiting:
                await self._arrivals.wait(seen, min(ASK_AGAIN_S, max(until - time.monotonic(), 0.01)))

    def _held_already(self, held: Owned, below: Below) -> bool:
        return held.lakes[below.source].events().get(below.partition, (0, 0))[1] >= below.offset

    def _holds(self, held: Owned, below: Below, ends: Mapping[Below, int]) -> bool:
        return below in ends and self._sink.position(self._records(held, below)) >= ends[below]

    def _answered(self, held: Owned, waiting: Sequence[Below]) -> dict[Below, int]:
        """Returns, for each wait that ingest has answered, the end of the records partition seen after
        the answer.
        """
        with Reader(self._kafka, INGEST_GROUP, within_s=ANSWER_S) as ingest:
            asked = {below: self._events(held, below) for below in waiting}
            committed = ingest.committed(list(asked.values()))
        answered = [below for below, events in asked.items() if committed[events].position >= below.offset]
        if not answered:
            return {}
        with Reader(self._kafka, INGEST_GROUP, within_s=ANSWER_S, isolation="read_uncommitted") as ends:
            return {below: ends.ends(self._records(held, below))[1] for below in answered}

    def _events(self, held: Owned, below: Below) -> Partition:
        return Partition(source_topic("events", held.pipeline.pipeline, below.source), below.partition)

    def _records(self, held: Owned, below: Below) -> Partition:
        return Partition(source_topic("records", held.pipeline.pipeline, below.source), below.partition)

    def _late(
        self,
        held: Owned,
        waiting: Sequence[Below],
        ends: Mapping[Below, int],
        timeout_s: float,
        trouble: Unavailable | None,
    ) -> DeadlineExceeded | Unavailable:
        if trouble is not None:
            return Unavailable(
                f"Kafka did not say how far ingest is: {trouble}", remedy="Start it, and try again"
            )
        first = waiting[0]
        where = f"{self._kafka.topic(self._events(held, first).topic)} partition {first.partition}"
        if first in ends:
            said = (
                f"records up to {ends[first]:,} are there,"
                f" {self._sink.position(self._records(held, first)):,} of them in the lake"
            )
        else:
            said = f"ingest has not answered all events below {first.offset:,}"
        remedy = "See in `penstock status` what ingest waits for, or set a longer deadline"
        return DeadlineExceeded(f"{said} after {timeout_s:.0f} s", where=where, remedy=remedy)
