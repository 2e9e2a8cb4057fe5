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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from penstock.contracts.errors import DeadlineExceeded, Invalid, Unavailable
from penstock.contracts.topics import source_topic
from penstock.runtime.kafka.messages import Partition
from penstock.runtime.kafka.reading import Reader
from penstock.runtime.settings import KafkaSettings
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.lake import SourceLake
from penstock_feature_store.lake.records import Records
from penstock_feature_store.pipelines import Owned

INGEST_GROUP = "penstock.ingest"
ASK_AGAIN_S = 0.2
ANSWER_S = 5.0  # that one answer of Kafka's is waited for


class Below(NamedTuple):
    """Events of a partition below an offset, and where their records go."""

    events: Partition
    offset: int
    records: Partition
    lake: SourceLake


class Barrier:
    def __init__(self, kafka: KafkaSettings, records: Records, arrivals: Arrivals) -> None:
        self._kafka = kafka
        self._records = records
        self._arrivals = arrivals

    async def wait(self, held: Owned, offsets: Iterable[tuple[str, int, int]], timeout_s: float) -> None:
        """Waits for all events below `offsets`: (topic, partition, offset) as a client gave them, with
        or without the installation's prefix.

        Raises Invalid for a topic that is not the pipeline's, DeadlineExceeded that says what is
        missing, Unavailable when Kafka does not answer all that time.
        """
        until = time.monotonic() + timeout_s
        ends: dict[Below, int] = {}
        waiting = [below for below in self._read(held, offsets) if not self._settled(below, ends)]
        while waiting:
            seen = self._arrivals.count
            trouble: Unavailable | None = None
            try:
                if unknown := [below for below in waiting if below not in ends]:
                    ends |= await asyncio.to_thread(self._answered, unknown)
            except Unavailable as error:
                trouble = error
            waiting = [below for below in waiting if not self._settled(below, ends)]
            if waiting and time.monotonic() >= until:
                raise self._late(waiting[0], ends, timeout_s, trouble)
            if waiting:
                await self._arrivals.wait(seen, min(ASK_AGAIN_S, max(until - time.monotonic(), 0.01)))

    def _read(self, held: Owned, offsets: Iterable[tuple[str, int, int]]) -> Iterator[Below]:
        pipeline = held.pipeline.pipeline
        topics = {source_topic("events", pipeline, source): source for source in held.lakes}
        for given, partition, offset in offsets:
            topic = given.removeprefix(self._kafka.topic_prefix)
            if topic not in topics:
                raise Invalid(
                    f"`{given}` is no events topic of {pipeline}",
                    where="min_offsets",
                    remedy=f"Use {', '.join(topics)}",
                )
            if partition < 0 or offset < 0:
                raise Invalid(
                    f"{given} has no partition {partition} or offset {offset}",
                    where="min_offsets",
                    remedy="Give those that Kafka acknowledged",
                )
            source = topics[topic]
            records = Partition(source_topic("records", pipeline, source), partition)
            yield Below(Partition(topic, partition), offset, records, held.lakes[source])

    def _settled(self, below: Below, ends: Mapping[Below, int]) -> bool:
        if below.lake.events().get(below.events.number, 0) >= below.offset:
            return True
        return below in ends and self._records.position(below.records) >= ends[below]

    def _answered(self, waiting: Sequence[Below]) -> dict[Below, int]:
        """Returns, for each wait that ingest has answered, the end of the records partition seen after
        the answer.
        """
        with Reader(self._kafka, INGEST_GROUP, within_s=ANSWER_S) as ingest:
            committed = ingest.committed([below.events for below in waiting])
        answered = [below for below in waiting if committed[below.events].position >= below.offset]
        if not answered:
            return {}
        with Reader(self._kafka, INGEST_GROUP, within_s=ANSWER_S, isolation="read_uncommitted") as ends:
            return {below: ends.ends(below.records)[1] for below in answered}

    def _late(
        self, first: Below, ends: Mapping[Below, int], timeout_s: float, trouble: Unavailable | None
    ) -> DeadlineExceeded | Unavailable:
        if trouble is not None:
            return Unavailable(
                f"Kafka did not say how far ingest is: {trouble}", remedy="Start it, and try again"
            )
        said = f"ingest has not answered all events below {first.offset:,}"
        if first in ends:
            said = (
                f"records up to {ends[first]:,} are there,"
                f" {self._records.position(first.records):,} of them in the lake"
            )
        return DeadlineExceeded(
            f"{said} after {timeout_s:.0f} s",
            where=f"{self._kafka.topic(first.events.topic)} partition {first.events.number}",
            remedy="See in `penstock status` what ingest waits for, or set a longer deadline",
        )
