"""Time from an event's publication until its record can be read, and until its entity's features can,
beside a bare loop that copies the same events in transactions.

    python benchmarks/latency.py [--home .penstock] [--seconds 10] [--rounds 3] [--json]

Without `--home` it brings a stack up for itself. 1,000 events/s of 20 fields and about 820 bytes go
to a pipeline of its own, which is deleted at the end, and in turn to the bare loop, which commits
whatever has come. Times begin when the producer is given an event, which it sends at once. Records
are read as committed; features are asked for every 5 ms, through the front door, of one event in
twenty, each of an entity that had none. Each figure is the middle one of the rounds'. Takes two
minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition
from idle import own_stack
from ingest_throughput import PIPELINE, events

from penstock.client.client import Penstock
from penstock.client.settings import ClientSettings
from penstock.contracts.topics import Topic, source_topic
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.runtime.kafka.admin import ensure_topics, remove_topics, topics_made
from penstock.runtime.settings import KafkaSettings
from penstock.testing.threads import beside

PER_S, TICK_S, PROBED = 1_000, 0.005, 20
POLL_S = 0.005
WARM_S = 2.0
WITHIN_S = 60.0
NAME = "bench-latency"
IN, OUT = "bench.latency.in", "bench.latency.out"


class Times:
    """Times at which each event was published, by its id, and the seconds until it was found."""

    def __init__(self) -> None:
        self.published: dict[str, float] = {}
        self.taken: list[float] = []

    def found(self, identity: str) -> None:
        if began := self.published.pop(identity, None):
            self.taken.append(time.perf_counter() - began)


def publish(kafka: KafkaSettings, topic: str, seconds: float, records: Times, features: Times) -> None:
    """So many events a second, each with an id of its own, one in twenty with an entity of its own."""
    prefix = uuid.uuid4().hex[:8]
    producer = Producer(kafka.client(linger_ms=0, enable_idempotence=True))
    templates = [json.loads(value) for value in events(200)]
    began, number = time.perf_counter(), 0
    while number < PER_S * seconds:
        for _ in range(round(PER_S * TICK_S)):
            identity = f"{prefix}-{number}"
            event = templates[number % len(templates)] | {"event_id": identity}
            if number % PROBED == 0:
                event["person_id"] = identity
            value = orjson.dumps(event)
            records.published[identity] = now = time.perf_counter()
            if number % PROBED == 0:
                features.published[identity] = now
            producer.produce(topic, value, event["person_id"])
            number += 1
        producer.poll(0)
        time.sleep(max(0.0, began + number / PER_S - time.perf_counter()))  # the pace is what is asked for
    producer.flush(WITHIN_S)


def reading(kafka: KafkaSettings, topic: str, key: str, times: Times) -> Callable[[threading.Event], None]:
    """Reads the topic from its end on; `key` names the id in a message."""
    consumer = Consumer(
        kafka.client(group_id=uuid.uuid4().hex, isolation_level="read_committed", enable_auto_commit=False)
    )
    found = consumer.list_topics(topic, timeout=WITHIN_S).topics[topic]
    places = [TopicPartition(topic, number) for number in found.partitions]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place, timeout=WITHIN_S)[1]
    consumer.assign(places)

    def read(stop: threading.Event) -> None:
        while not stop.is_set():
            if (message := consumer.poll(0.1)) is not None and message.error() is None:
                times.found(orjson.loads(message.value() or b"")[key])
        consumer.close()

    return read


def asking(client: Penstock, times: Times) -> Callable[[threading.Event], None]:
    """Asks for the features of all entities that have none yet."""

    def ask(stop: threading.Event) -> None:
        while not stop.is_set():
            if waiting := list(times.published)[:100]:
                for entity in client.features.online(NAME, waiting).entities:
                    if entity.status == pb.EntityFeatures.STATUS_FOUND:
                        times.found(entity.entity)
            stop.wait(POLL_S)

    return ask


def copying(kafka: KafkaSettings) -> Callable[[threading.Event], None]:
    """Copies what comes, exactly once, as fast as transactions go: whatever has come is the next one."""
    consumer = Consumer(
        kafka.client(
            group_id=f"bench-{uuid.uuid4().hex}",
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    )
    producer = Producer(
        kafka.client(transactional_id=f"bench-{uuid.uuid4().hex}", linger_ms=0, retry_backoff_ms=1)
    )
    producer.init_transactions(WITHIN_S)
    consumer.subscribe([IN])

    def copy(stop: threading.Event) -> None:
        while not stop.is_set():
            if (first := consumer.poll(0.1)) is None:
                continue
            producer.begin_transaction()
            for message in [first, *consumer.consume(4000, 0)]:
                producer.produce(OUT, message.value(), message.key(), message.partition() or 0)
            reached = [one for one in consumer.position(consumer.assignment()) if one.offset >= 0]
            producer.send_offsets_to_transaction(reached, consumer.consumer_group_metadata())
            producer.commit_transaction()
        consumer.close()

    return copy


def ours(client: Penstock, kafka: KafkaSettings, seconds: float) -> dict[str, Sequence[float]]:
    records, features = Times(), Times()
    topics = {kind: source_topic(kind, NAME, "people") for kind in ("events", "records")}
    with (
        beside(reading(kafka, kafka.topic(topics["records"]), "id", records)),
        beside(asking(client, features)),
    ):
        publish(kafka, kafka.topic(topics["events"]), seconds, records, features)
        wait_until_found(records, features)
    return {"record": records.taken, "features": features.taken}


def bare(kafka: KafkaSettings, seconds: float) -> dict[str, Sequence[float]]:
    times = Times()
    with beside(copying(kafka)), beside(reading(kafka, OUT, "event_id", times)):
        publish(kafka, IN, seconds, times, Times())
        wait_until_found(times)
    return {"bare": times.taken}


def wait_until_found(*times: Times) -> None:
    deadline = time.monotonic() + WITHIN_S
    while any(one.published for one in times):
        if time.monotonic() > deadline:
            raise SystemExit(f"{sum(len(one.published) for one in times)} events not found")
        time.sleep(POLL_S)  # between two looks


def measure(home: Path, seconds: float, rounds: int) -> dict[str, float]:
    settings = ClientSettings(home=home)
    kafka = settings.operator
    ensure_topics(kafka, [Topic(name, "bench", (), "", "", (), partitions=2) for name in (IN, OUT)])
    declared = PIPELINE.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"pipeline": NAME}
    found: dict[str, list[Sequence[float]]] = {}
    with Penstock(settings) as client:
        client.pipelines.apply(json.dumps(declared), by="bench")
        try:
            bare(kafka, WARM_S), ours(client, kafka, WARM_S)
            for _ in range(rounds):
                for way, taken in {**bare(kafka, seconds), **ours(client, kafka, seconds)}.items():
                    found.setdefault(way, []).append(sorted(taken))
        finally:
            client.pipelines.delete(NAME, by="bench")
            remove_topics(kafka, topics_made(kafka, [IN, OUT]))
    return {"per_s": PER_S} | {
        f"{way}_p{share}_ms": statistics.median(one[len(one) * share // 100] for one in each) * 1000
        for way, each in found.items()
        for share in (50, 99)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="of a stack that is up")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with ExitStack() as opened:
        home = asked.home or opened.enter_context(own_stack())[0].home
        found = measure(home, asked.seconds, asked.rounds)
    if asked.json:
        print(json.dumps(found))
        return
    for way in ("bare", "record", "features"):
        print(f"{way:<10} p50 {found[f'{way}_p50_ms']:>7.1f} ms   p99 {found[f'{way}_p99_ms']:>7.1f} ms")


if __name__ == "__main__":
    main()
