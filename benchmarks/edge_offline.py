"""Days without the hub, in fast motion: events come to a site's disk at their rate by the site's clock,
then go through a hub's transactions into Kafka, which is read to the last of them.

    python benchmarks/edge_offline.py [--per-second 1] [--hours 72] [--kafka ADDRESS] [--json]

The clock is set, and ages and bounds are judged by it; all else is as fast as the disk allows. 72 h at
an event a second take about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from confluent_kafka import Consumer, TopicPartition
from edge import NAME, ROOT, SOURCE, hub, pipeline

from penstock.contracts.errors import TooLarge
from penstock.contracts.load import read_data
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import SHARED, pipeline_topics
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.testing.broker import EmbeddedKafka, Kafka
from penstock.testing.wait import until_async
from penstock_edge_gateway.site.forwarder import Forwarder
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.spool import Spool

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
BATCH: Final = 1000  # events a call
ROW_BYTES: Final = 80  # of a row beside its event, as docs/edge.md reckons
FILE_BYTES: Final = 1 << 16  # of a spool that holds nothing
APPLICANTS: Final = 5_000
DRAINED_WITHIN_S: Final = 3600.0
APPLICATION: Final = {
    "seniority": 9,
    "home": "rent",
    "term": 60,
    "age": 30,
    "marital": "married",
    "records": False,
    "job": "freelance",
    "expenses": 73,
    "income": 129,
    "assets": 0,
    "debt": 0,
    "amount": 800,
    "price": 846,
}


@dataclass
class Absence:
    """A site's time without the hub, and what its clocks tell."""

    per_second: float
    hours: float
    gone_s: float = 0.0

    @property
    def events(self) -> int:
        return round(self.per_second * self.hours * 3600)

    def boot(self) -> tuple[str, float]:
        return "this boot", self.gone_s

    def now(self) -> datetime:
        return START + timedelta(seconds=self.gone_s)

    def batches(self) -> Iterator[list[bytes]]:
        """Yields all events, the clocks with them; 345 bytes each."""
        draw = random.Random(7)
        for first in range(0, self.events, BATCH):
            last = min(first + BATCH, self.events)
            yield [event(number, self.per_second, draw) for number in range(first, last)]
            self.gone_s = last / self.per_second


def event(number: int, per_second: float, draw: random.Random) -> bytes:
    said = {
        "application_id": f"a{number}",
        "applicant_id": f"p{draw.randrange(APPLICANTS)}",
        "submitted_at": (START + timedelta(seconds=number / per_second)).isoformat(),
    }
    return json.dumps(said | APPLICATION).encode()


def at_the_site() -> Pipeline:
    """The example, of which all may leave a site."""
    spec: dict[str, Any] = read_data((ROOT / "examples" / NAME / "pipeline.yaml").read_text())
    return Pipeline.model_validate(spec | {"edge": {"may_leave": [*APPLICATION, "defaulted"]}})


async def publish(absence: Absence, folder: Path, lane: Lane) -> dict[str, Any]:
    """Publishes all of the absence, and one event more, for which the oldest is too old."""
    file, age = at_the_site(), timedelta(hours=absence.hours)
    publisher = Publisher(
        lambda _: file, lane, age=age, clock=absence.now, pseudonym=PseudonymKeys(folder).pseudonym
    )
    size, began = 0, time.perf_counter()
    for events in absence.batches():
        assert not await publisher.publish(NAME, SOURCE, events)
        size += sum(map(len, events))
    took, depth = time.perf_counter() - began, lane.spool.depth()
    absence.gone_s += 1.0 + BATCH / absence.per_second
    try:
        await publisher.publish(NAME, SOURCE, [event(absence.events, absence.per_second, random.Random())])
    except TooLarge as refused:
        refusal = refused.message
    return {
        "spooled_per_s": absence.events / took,
        "spooled_mb": depth.bytes / 1e6,
        "reckoned_mb": (FILE_BYTES + size + ROW_BYTES * absence.events) / 1e6,
        "refusal": refusal,
    }


async def drain(kafka: KafkaSettings, folder: Path, lane: Lane) -> dict[str, float]:
    """Events a second, from the first that the hub has to the last."""
    spool = lane.spool
    with hub(kafka, folder) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            reached = Hub(channel)
            reached.incarnation = 1
            forwards = asyncio.create_task(Forwarder(lane, reached).run())
            await until_async(lambda: spool.reached, what="the hub forwards")
            began, before = time.perf_counter(), spool.reached
            await until_async(lambda: not spool.waiting, within=DRAINED_WITHIN_S, what="all is forwarded")
            took = time.perf_counter() - began
            forwards.cancel()
    return {"drained_per_s": (spool.reached - before) / took, "left_mb": spool.depth().bytes / 1e6}


def found(kafka: KafkaSettings, events: int) -> dict[str, int]:
    """Events in the topic: those missing of so many, those doubled, those behind a later one of their
    applicant.
    """
    topic = kafka.topic(f"{NAME}.{SOURCE}.events.v1")
    reads = kafka.client(
        group_id=uuid.uuid4().hex, isolation_level="read_committed", enable_partition_eof=True
    )
    consumer, seen, last = Consumer(reads), bytearray(events), dict[bytes | None, int]()
    left = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, 0) for number in left])
    doubled = disordered = 0
    while left:
        for message in consumer.consume(10_000, 1):
            if message.error():
                left.discard(message.partition())
                continue
            number = int(json.loads(message.value() or b"")["application_id"][1:])
            doubled += seen[number]
            seen[number] = 1
            disordered += last.get(message.key(), -1) >= number
            last[message.key()] = number
    consumer.close()
    return {"missing": seen.count(0), "doubled": doubled, "disordered": disordered}


def measure(absence: Absence, broker: Kafka, folder: Path) -> dict[str, Any]:
    kafka = broker.settings(f"offline-{uuid.uuid4().hex[:8]}-")
    ensure_topics(kafka, [*pipeline_topics(pipeline()), *SHARED])
    longest = len(event(absence.events, absence.per_second, random.Random()))
    size = FILE_BYTES + absence.events * (longest + ROW_BYTES)
    with Spool(folder / "events.db", durable=True, size=size, clock=absence.boot) as spool:
        lane = Lane("events", spool)

        async def days() -> dict[str, Any]:
            return await publish(absence, folder, lane) | await drain(kafka, folder, lane)

        return {"events": absence.events, **asyncio.run(days()), **found(kafka, absence.events)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-second", type=float, default=1.0)
    parser.add_argument("--hours", type=float, default=72.0)
    parser.add_argument("--kafka", help="address of a broker; by default one of its own")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = Kafka(said.kafka) if said.kafka else stack.enter_context(EmbeddedKafka())
        measured = measure(Absence(said.per_second, said.hours), broker, folder)
    print(json.dumps(measured) if said.json else "\n".join(f"{key:14} {of}" for key, of in measured.items()))


if __name__ == "__main__":
    main()
