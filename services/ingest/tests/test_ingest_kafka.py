"""Ingest as processes of its own against the real broker. What is on the topics is compared as
lists: order and multiplicity count.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import SHARED, pipeline_topics, source_topic
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.packages.keys import Keys
from penstock.runtime.cloud_events import headers_of
from penstock.runtime.kafka.admin import ensure_topics
from penstock.testing import packages
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.letters import letters
from penstock.testing.wait import until
from penstock_ingest.history import History, Restored, headers
from penstock_ingest.seen import digest


def small_pipeline(name: str = "loans", **source: Any) -> Pipeline:
    declared = {
        "entity": "applicant",
        "id": "id",
        "timestamp": "at",
        "fields": {
            "income": {"type": "number", "range": [0, 100_000]},
            "purpose": {"type": "category"},
            "granted": {"type": "boolean"},
        },
    }
    return Pipeline.model_validate(
        {
            "version": 1,
            "pipeline": name,
            "entities": {"applicant": {"key": "who"}},
            "sources": {"applications": declared | source},
            "targets": {"granted": {"from": "applications.granted", "type": "binary"}},
        }
    )


def event(identity: str, **change: Any) -> bytes:
    good = {
        "id": identity,
        "who": f"w{int(identity) % 97}",
        "at": 1_769_857_200,
        "income": 1000.0,
        "purpose": "car",
        "granted": True,
    }
    return json.dumps(good | change).encode()


class World:
    """One installation on the shared broker: a prefix of its own, its processes, its topics."""

    def __init__(self, kafka: Kafka, home: Path) -> None:
        self.settings = kafka.settings(f"ingest-{uuid.uuid4().hex[:8]}.")
        self._home = home
        self._keys = Keys(home / "keys")
        self._keys.ensure()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        ensure_topics(self.settings, [topic for topic in SHARED if topic.name == "pipelines.v1"])
        self._producer = Producer(self.settings.client(enable_idempotence=True, linger_ms=5))

    # -- what people and other services do ---------------------------------------------------------

    def apply(self, pipeline: Pipeline, number: int = 1) -> None:
        ensure_topics(self.settings, pipeline_topics(pipeline))
        spec = pipeline.model_dump(mode="json", by_alias=True)
        applied = packages.applied(self._keys, "", number, spec=spec)
        headers = headers_of(
            event_id=uuid.uuid4().hex,
            source="/test",
            event_type=applied.ce_type(),
            time=applied.applied_at,
            subject=applied.key,
            traceparent=None,
        )
        self._producer.produce(
            self.settings.topic(applied.topic),
            applied.model_dump_json().encode(),
            applied.key.encode(),
            headers=list(headers.items()),
        )
        self._producer.flush(30)

    def publish(
        self,
        values: Sequence[bytes],
        *,
        pipeline: str = "loans",
        partitions: int = 2,
        key: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """In turn to the partitions; or by key."""
        topic = self.settings.topic(source_topic("events", pipeline, "applications"))
        for number, value in enumerate(values):
            self._producer.poll(0)
            if key is None:
                self._producer.produce(topic, value, partition=number % partitions)
            else:
                self._producer.produce(topic, value, key(value))
        self._producer.flush(30)

    # -- processes ---------------------------------------------------------------------------------

    def start(self, replica: str = "0", **settings: object) -> None:
        if replica not in self._ports:
            (self._ports[replica],) = free_ports(1)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")
        } | {
            "PENSTOCK_HOME": str(self._home / replica),
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": self.settings.topic_prefix,
            "PENSTOCK_INGEST__PORT": str(self._ports[replica]),
            "PENSTOCK_INGEST__REPLICA": replica,
            **{f"PENSTOCK_INGEST__{name.upper()}": str(value) for name, value in settings.items()},
        }
        shutil.copytree(self._keys.directory, self._home / replica / "keys", dirs_exist_ok=True)
        with (self._home / f"{replica}.log").open("ab") as log:
            self._processes[replica] = subprocess.Popen(
                [sys.executable, "-m", "penstock_ingest"],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, replica: str = "0") -> None:
        self._processes[replica].kill()
        self._processes.pop(replica).wait(10)

    def stop(self, replica: str = "0") -> int:
        self._processes[replica].send_signal(signal.SIGTERM)
        return self._processes.pop(replica).wait(30)

    def close(self) -> None:
        for replica in list(self._processes):
            self.kill(replica)

    def said(self, replica: str = "0") -> str:
        return (self._home / f"{replica}.log").read_text()

    # -- what became of it -------------------------------------------------------------------------

    def counts(self, pipeline: str = "loans", replica: str = "0") -> ingest_pb2.GetCountsResponse | None:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[replica]}") as channel:
            try:
                return ingest_pb2_grpc.IngestServiceStub(channel).GetCounts(
                    ingest_pb2.GetCountsRequest(pipeline=pipeline, source="applications"), timeout=5
                )
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                    return None
                raise

    def counted(
        self, events: int, pipeline: str = "loans", replica: str = "0"
    ) -> ingest_pb2.GetCountsResponse:
        """Counts of so many events: the service has them a moment after its transaction shows."""
        found = until(
            lambda: self.counts(pipeline, replica),
            accept=lambda counts: counts is not None and counts.events == events,
            what=f"{events} events of {pipeline} are counted",
        )
        assert found is not None
        return found

    def profile(self, pipeline: str = "loans", replica: str = "0") -> dict[str, ingest_pb2.FieldProfile]:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[replica]}") as channel:
            answer = ingest_pb2_grpc.IngestServiceStub(channel).GetProfile(
                ingest_pb2.GetProfileRequest(pipeline=pipeline, source="applications"), timeout=5
            )
        return {field.name: field for field in answer.fields}

    def position(self, pipeline: str = "loans") -> int:
        """Sum of the committed positions, without asking ingest."""
        topic = self.settings.topic(source_topic("events", pipeline, "applications"))
        consumer = Consumer(
            self.settings.client(
                group_id=self.settings.topic("penstock.ingest"), isolation_level="read_committed"
            )
        )
        try:
            return sum(
                max(0, at.offset)
                for at in consumer.committed([TopicPartition(topic, number) for number in (0, 1)], timeout=10)
            )
        except KafkaException:
            return -1
        finally:
            consumer.close()

    def reaches(self, total: int, pipeline: str = "loans", within: float = 60) -> None:
        until(
            lambda: self.position(pipeline) == total,
            within=within,
            what=f"{total} events of {pipeline} are taken",
        )

    def kill_in_a_transaction(
        self, moment: random.Random, values: Sequence[bytes], replica: str = "0"
    ) -> None:
        """Publishes these, and lets the process run for a moment at a time, until it is found with records
        of an open transaction on the topic: however slow the looks are, it does not come to the end
        between two. Kills it there.
        """
        process = self._processes[replica]
        place = TopicPartition(self.settings.topic(source_topic("records", "loans", "applications")), 0)
        committed, written = (
            Consumer(self.settings.client(group_id="any", isolation_level=isolation))
            for isolation in ("read_committed", "read_uncommitted")
        )

        def end(consumer: Consumer) -> int:
            return int(consumer.get_watermark_offsets(place, 10)[1])

        def caught() -> bool:
            process.send_signal(signal.SIGCONT)
            time.sleep(moment.uniform(0, 0.03))  # the moment of the kill
            process.send_signal(signal.SIGSTOP)
            return end(committed) < end(written)

        until(lambda: end(committed) > 0, what="a record is committed")
        self.publish(values)
        until(caught, what="a transaction is open")
        self.kill(replica)
        committed.close()
        written.close()

    def assigned(self, replica: str) -> str:
        """What the replica said it was assigned last."""
        lines = [line for line in self.said(replica).splitlines() if "partitions_assigned" in line]
        return lines[-1] if lines else ""

    def read(self, kind: str, pipeline: str = "loans") -> dict[int, list[Any]]:
        """All committed messages, decoded, by partition, in order."""
        topic = self.settings.topic(source_topic(kind, pipeline, "applications"))  # type: ignore[arg-type]
        consumer = Consumer(
            self.settings.client(
                group_id=uuid.uuid4().hex,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                enable_partition_eof=True,
            )
        )
        consumer.assign([TopicPartition(topic, number, 0) for number in (0, 1)])
        found: dict[int, list[Any]] = {0: [], 1: []}
        ended: set[int] = set()
        while len(ended) < 2:
            for message in consumer.consume(5000, 0.2):
                if message.error():
                    ended.add(message.partition())
                else:
                    value = message.value()
                    found[message.partition()].append(value if kind == "seen" else json.loads(value))
        consumer.close()
        return found


pytestmark = pytest.mark.kafka


@pytest.fixture
def world(kafka: Kafka, tmp_path: Path) -> Iterator[World]:
    world = World(kafka, tmp_path)
    yield world
    world.close()


def ids(messages: dict[int, list[Any]]) -> dict[int, list[str]]:
    return {number: [message["id"] for message in found] for number, found in messages.items()}


def numbers(first: int, last: int, partition: int) -> list[str]:
    """Of the events [first, last) that went in turn to two partitions."""
    return [str(number) for number in range(first, last) if (number - first) % 2 == partition]


def test_what_was_committed_is_waited_for_until_it_shows(world: World) -> None:
    """The committed offset may be visible before the messages of its transaction are."""
    ensure_topics(world.settings, pipeline_topics(small_pipeline()))
    topic = source_topic("seen", "loans", "applications")
    producer = Producer(
        world.settings.client(
            transactional_id=world.settings.topic("writer"), transaction_timeout_ms=60_000, retry_backoff_ms=1
        )
    )
    producer.init_transactions(30)
    for number, text in ((1, "a"), (2, "b")):
        producer.begin_transaction()
        producer.produce(
            world.settings.topic(topic), digest(text), partition=0, headers=headers(number, {}, {})
        )
        if number == 1:
            producer.commit_transaction(10)
    producer.flush(10)
    history, restored = History(world.settings, topic), dict[int, Restored]()

    def restore(records: int) -> None:
        restored[records] = history.restore(
            0, records=records, window_ms=60_000, capacity=10, now=int(time.time() * 1000)
        )

    restore(1)
    waiting = Thread(target=restore, args=(2,))
    waiting.start()
    waiting.join(0.5)
    assert restored.keys() == {1}, "the second transaction is open, and belongs to what was committed"
    producer.commit_transaction(10)
    waiting.join(60)
    assert [len(restored[records].seen) for records in (1, 2)] == [1, 2]


def test_rubbish_on_the_seen_topic_is_left_out_at_a_start_and_nothing_is_doubled(world: World) -> None:
    world.apply(small_pipeline())
    world.start()
    world.publish([event(str(number)) for number in range(10)])
    world.reaches(10)
    world.kill()
    topic = source_topic("seen", "loans", "applications")
    producer = Producer(world.settings.client())
    odd: list[tuple[bytes, dict[str, bytes]]] = [
        (b"seven b", {}),
        (b"", {"total": b"many"}),
        (b"", {"total": b"9" * 5_000}),
        (b"", {"delta": b"[]"}),
        (b"", {"profile": b'{"income": [1, 2, [1], {}]}'}),
        (b"", {"profile": b"\xff"}),
    ]
    for value, said in odd:
        producer.produce(world.settings.topic(topic), value, partition=0, headers=dict(said))
    assert producer.flush(10) == 0
    world.start()
    world.publish([event(str(number)) for number in range(20)])  # the first ten once more
    world.reaches(30)
    assert [len(records) for records in world.read("records").values()] == [10, 10]
    counts = world.counted(30)
    assert (counts.records, counts.duplicates) == (20, 10)
    found = letters(world.settings, f"{topic}.penstock.ingest.dlq")
    assert [letter.headers["dlq-partition"] for letter in found] == ["0"] * len(odd)


def test_killed_in_mid_transaction_nothing_is_lost_and_nothing_doubled(world: World) -> None:
    moment = random.Random(7)
    world.apply(small_pipeline())
    events = [
        event(str(number)) if number % 10 else event(str(number), income=-1) for number in range(12_000)
    ]
    for number in range(0, 12_000, 50):
        events[number + 5] = events[number + 1]  # a repeat, soon after, in the same partition
    world.publish(events[:1000])
    world.start(batch=20)
    world.kill_in_a_transaction(moment, events[1000:])
    world.start()
    world.reaches(12_000)

    mended = [
        event("0"),
        event("1"),
        event("10"),
        event("3"),
    ]  # two rejects are repaired, two records come again
    world.publish(mended)
    world.reaches(12_004)
    accepted = [value for number, value in enumerate(events) if number % 10 and number % 50 != 5]
    expected = {
        0: [value for value in accepted if int(json.loads(value)["id"]) % 2 == 0] + [mended[0], mended[2]]
    }
    expected[1] = [value for value in accepted if int(json.loads(value)["id"]) % 2 == 1]
    assert ids(world.read("records")) == {
        number: [json.loads(value)["id"] for value in found] for number, found in expected.items()
    }
    rejects = world.read("rejects")
    assert [(reject["reason"], reject["offset"]) for reject in rejects[0]] == [
        ("out_of_range", offset) for offset in range(0, 6000, 5)
    ]
    assert rejects[1] == []
    assert [sum(map(len, found)) for found in world.read("seen").values()] == [
        8 * len(expected[0]),
        8 * len(expected[1]),
    ]
    counts = world.counted(12_004)
    assert (counts.events, counts.records, counts.duplicates, counts.rejects) == (
        12_004,
        10_562,
        242,
        {"out_of_range": 1200},
    )
    assert [(one.partition, one.position, one.lag) for one in counts.partitions] == [
        (0, 6002, 0),
        (1, 6002, 0),
    ]
    profile = world.profile()
    assert (profile["income"].present, profile["income"].minimum, profile["income"].maximum) == (
        10_562,
        1000,
        1000,
    )
    assert profile["purpose"].values == {"car": 10_562}


def test_two_replicas_share_take_over_and_follow_pipelines_while_running(world: World) -> None:
    world.apply(small_pipeline())
    world.start("a")
    world.start("b")

    def publish(first: int, last: int, pipeline: str = "loans") -> None:
        world.publish([event(str(number)) for number in range(first, last)], pipeline=pipeline)

    publish(0, 2000)
    world.reaches(2000)
    until(
        lambda: all(world.assigned(replica).count("/") == 1 for replica in "ab"),
        what="each replica has a partition",
    )
    publish(2000, 4000)
    world.apply(small_pipeline("leases"))
    publish(0, 2000, "leases")
    publish(4000, 6000)
    world.reaches(2000, "leases")
    world.kill("a")
    publish(6000, 8000)
    world.publish([event("3998"), event("3999"), event("2"), event("1")])
    world.reaches(8004)
    assert ids(world.read("records")) == {0: numbers(0, 8000, 0), 1: numbers(0, 8000, 1)}
    assert ids(world.read("records", "leases")) == {0: numbers(0, 2000, 0), 1: numbers(0, 2000, 1)}

    world.apply(
        small_pipeline(fields={"income": {"type": "number", "range": [0, 10]}, "zip": {"type": "category"}}),
        2,
    )
    until(lambda: '"number": 2' in world.said("b"), what="the change is read")
    world.publish(
        [
            event("9000"),
            b"{",
            json.dumps({"id": "9001", "who": "w", "at": 0, "income": 10, "zip": "9"}).encode(),
        ]
    )
    world.reaches(8007)
    counts = world.counted(8007, replica="b")
    assert (counts.events, counts.records, counts.duplicates, counts.rejects) == (
        8007,
        8001,
        4,
        {"not_json": 1, "unknown_field": 1},
    )
    assert world.counts(replica="b", pipeline="none") is None
    assert world.stop("b") == 0
