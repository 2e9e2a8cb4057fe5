"""Ingest's events a second beside a pass-through of the same events on the same broker, and how
long it takes to restore what was seen.

    python benchmarks/ingest_throughput.py [--kafka 127.0.0.1:9092] [--events 200000] [--json]

Events are flat JSON objects of 20 fields and about 820 bytes in two partitions. Everything shares
this machine: the broker, the client library's threads and the work. Both are measured in
turn, `--rounds` times; the ratio is of two that followed one another. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from confluent_kafka import Producer

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import pipeline_topics, source_topic
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.messages import (
    BEGINNING,
    Batch,
    Committed,
    Message,
    Outcome,
    Partition,
    Produced,
    Send,
)
from penstock.runtime.kafka.streams import Processor, TransactionalStream
from penstock.runtime.settings import KafkaSettings
from penstock.testing.threads import beside
from penstock_ingest.history import CHECKPOINT_EVERY, History, Restored, headers
from penstock_ingest.intake import Intake
from penstock_ingest.profile import Profiler
from penstock_ingest.seen import SeenIds

PARTITIONS = 2
WITHIN_S = 120.0
CATEGORIES = ["private", "self-employed", "government", "never-worked", "retired", "student"]

PIPELINE = Pipeline.model_validate(
    {
        "version": 1,
        "pipeline": "bench",
        "entities": {"person": {"key": "person_id"}},
        "sources": {
            "people": {
                "entity": "person",
                "id": "event_id",
                "timestamp": "observed_at",
                "partitions": PARTITIONS,
                "fields": {
                    **{
                        f"measured_amount_{number}": {"type": "number", "range": [-1e9, 1e9]}
                        for number in range(8)
                    },
                    **{
                        f"declared_category_{number}": {"type": "category", "values": CATEGORIES}
                        for number in range(6)
                    },
                    "note": {"type": "text", "personal": True},
                    "consents": {"type": "boolean"},
                    "resident": {"type": "boolean"},
                },
            }
        },
        "targets": {"resident": {"from": "people.resident", "type": "binary"}},
    }
)


def events(count: int) -> Iterator[bytes]:
    draw = random.Random(7)
    for number in range(count):
        yield json.dumps(
            {
                "event_id": f"e{number:012d}",
                "person_id": f"p{number % 5000:06d}",
                "observed_at": datetime.fromtimestamp(1_767_225_600 + number, UTC).isoformat(),
                **{f"measured_amount_{field}": round(draw.uniform(-1e6, 1e6), 3) for field in range(8)},
                **{f"declared_category_{field}": draw.choice(CATEGORIES) for field in range(6)},
                "note": (
                    "a person of some interest, who wrote this much text " + "x" * draw.randrange(118, 178)
                ),
                "consents": draw.random() < 0.9,
                "resident": draw.random() < 0.3,
            }
        ).encode()


class PassThrough:
    """Baseline of ingest's own work: the same stream with nothing to do."""

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        pass

    def process(self, batch: Batch, send: Send) -> Outcome:
        records, number = source_topic("records", "bench", "people"), batch.partition.number
        send([Produced(records, number, message.key, message.value) for message in batch.messages])
        return Outcome()


class Counting:
    """Another processor's work, and when all of it was done."""

    def __init__(self, inner: Processor, expected: int) -> None:
        self._inner = inner
        self._left = expected
        self.done = threading.Event()
        self.began = self.ended = 0.0

    def assigned(self, partitions: Mapping[int, Committed]) -> None:
        self._inner.assigned(partitions)
        self.began = time.perf_counter()

    def process(self, batch: Batch, send: Send) -> Outcome:
        outcome = self._inner.process(batch, send)

        def committed() -> None:
            outcome.committed()
            self._left -= len(batch.messages)
            if self._left == 0:
                self.ended = time.perf_counter()
                self.done.set()

        return Outcome(outcome.metadata, committed)


class Nothing:
    def restore(self, partition: int, *, records: int, window_ms: int, capacity: int, now: int) -> Restored:
        return Restored(SeenIds(window_ms, capacity), {})


def intake() -> Intake:
    return Intake(
        PIPELINE, "people", restores=Nothing(), clock=lambda: time.time_ns() // 1_000_000, capacity=2_000_000
    )


def through_kafka(kafka: KafkaSettings, work: Processor, count: int) -> float:
    """Events a second, from the assignment to the last commit."""
    topic = source_topic("events", "bench", "people")
    counting = Counting(work, count)
    stream = TransactionalStream(kafka, group=f"bench-{uuid.uuid4().hex}", replica="0")
    stream.add(topic, counting)
    with beside(stream.run):
        if not counting.done.wait(WITHIN_S):
            raise SystemExit(f"not done within {WITHIN_S:.0f} s")
    return count / (counting.ended - counting.began)


def alone(values: Sequence[bytes], batch: int = 4000) -> float:
    """Events a second of the work without a broker."""
    work = intake()
    work.assigned({0: Committed(BEGINNING, "")})
    where = Partition(source_topic("events", "bench", "people"), 0)
    began = time.perf_counter()
    for first in range(0, len(values), batch):
        messages = [
            Message(first + at, b"k", value, 0, ()) for at, value in enumerate(values[first : first + batch])
        ]
        work.process(Batch(where, messages, first + batch), lambda _: None).committed()
    return len(values) / (time.perf_counter() - began)


def restored(kafka: KafkaSettings, messages: int, ids: int) -> float:
    """Seconds to restore one partition that `messages` transactions wrote with `ids` ids each."""
    ensure_topics(kafka, pipeline_topics(PIPELINE))
    topic = source_topic("seen", "bench", "people")
    values = [json.loads(value) for value in events(20)]
    fields = PIPELINE.sources["people"].fields
    delta = Profiler(fields).add({name: [values[0][name]] for name in fields}).profile()
    producer = Producer(kafka.client(linger_ms=20, queue_buffering_max_messages=1_000_000))
    for number in range(messages):
        said = headers((number + 1) * ids, delta, delta if number % CHECKPOINT_EVERY == 0 else None)
        producer.produce(kafka.topic(topic), os.urandom(8 * ids), partition=0, headers=list(said))
        producer.poll(0)
    producer.flush(60)
    began = time.perf_counter()
    found = History(kafka, topic).restore(
        0, records=messages * ids, window_ms=10**9, capacity=messages * ids, now=time.time_ns() // 1_000_000
    )
    took = time.perf_counter() - began
    assert len(found.seen) == messages * ids
    return took


def measure(kafka_at: str, count: int, rounds: int) -> dict[str, float]:
    def fresh() -> KafkaSettings:
        return KafkaSettings(bootstrap_servers=kafka_at, topic_prefix=f"bench-{uuid.uuid4().hex[:8]}.")

    kafka = fresh()
    values = list(events(count))
    ensure_topics(kafka, pipeline_topics(PIPELINE))
    producer = Producer(
        kafka.client(
            linger_ms=20, queue_buffering_max_messages=1_000_000, queue_buffering_max_kbytes=2_000_000
        )
    )
    for number, value in enumerate(values):
        producer.produce(
            kafka.topic(source_topic("events", "bench", "people")), value, partition=number % PARTITIONS
        )
    producer.flush(60)
    found: dict[str, list[float]] = {"pass_through": [], "ingest": [], "alone": []}
    for _ in range(rounds):
        found["pass_through"].append(through_kafka(kafka, PassThrough(), count))
        found["ingest"].append(through_kafka(kafka, intake(), count))
        found["alone"].append(alone(values[:50_000]))
    shares = [one / base for one, base in zip(found["ingest"], found["pass_through"], strict=True)]
    return {
        "bytes_per_event": sum(map(len, values)) / count,
        "pass_through_per_s": statistics.median(found["pass_through"]),
        "ingest_per_s": statistics.median(found["ingest"]),
        "share": statistics.median(shares),
        "least_share": min(shares),
        "greatest_share": max(shares),
        "without_kafka_per_s": max(found["alone"]),
        "restore_2m_ids_in_batches_s": restored(fresh(), 500, 4000),
        "restore_100k_ids_one_by_one_s": restored(fresh(), 100_000, 1),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka", help="a running broker; by default one is started for the measurement")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if asked.kafka is None:
            from penstock.testing.broker import EmbeddedKafka

            asked.kafka = stack.enter_context(EmbeddedKafka()).bootstrap_servers
        found = measure(asked.kafka, asked.events, asked.rounds)
    if asked.json:
        print(json.dumps(found))
        return
    share = f"{found['share']:.2f} [{found['least_share']:.2f}, {found['greatest_share']:.2f}]"
    print(
        f"{asked.events:,} events of {found['bytes_per_event']:.0f} bytes, 20 fields,"
        f" {PARTITIONS} partitions, {os.cpu_count()} cores, exactly once"
    )
    print(f"pass-through           {found['pass_through_per_s']:>9,.0f} events/s")
    print(f"ingest                 {found['ingest_per_s']:>9,.0f} events/s   {share} of the pass-through")
    print(f"its work without Kafka {found['without_kafka_per_s']:>9,.0f} events/s")
    print(f"restore 2,000,000 ids  {found['restore_2m_ids_in_batches_s']:>9.2f} s   from batches of 4,000")
    print(
        f"restore   100,000 ids  {found['restore_100k_ids_one_by_one_s']:>9.2f} s   from transactions of one"
        " event each"
    )


if __name__ == "__main__":
    main()
