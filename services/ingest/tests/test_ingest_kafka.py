"""Ingest as processes of its own against the real broker. What is on the topics is compared as lists: order and multiplicity count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from penstock.contracts.events import PipelineApplied
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import SHARED, pipeline_topics, source_topic
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.runtime.cloud_events import headers_of
from penstock.runtime.topics import ensure_topics
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.wait import until


def small_pipeline(name: str = "loans", **source: Any) -> Pipeline:
    declared = {
        "entity": "applicant",
        "id": "id",
        "timestamp": "at",
        "fields": {"income": {"type": "number", "range": [0, 100_000]}, "purpose": {"type": "category"}, "granted": {"type": "boolean"}},
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
    good = {"id": identity, "who": f"w{int(identity) % 97}", "at": 1_769_857_200, "income": 1000.0, "purpose": "car", "granted": True}
    return json.dumps(good | change).encode()


class World:
    """One installation on the shared broker: a prefix of its own, its processes, its topics."""

    def __init__(self, kafka: Kafka, home: Path) -> None:
        self.settings = kafka.settings(f"ingest-{uuid.uuid4().hex[:8]}.")
        self._home = home
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        ensure_topics(self.settings, [topic for topic in SHARED if topic.name == "pipelines.v1"])
        self._producer = Producer(self.settings.client(enable_idempotence=True, linger_ms=5))

    # -- what people and other services do -----------------------------------------------------------------------------------------

    def apply(self, pipeline: Pipeline, number: int = 1) -> None:
        ensure_topics(self.settings, pipeline_topics(pipeline))
        now = datetime.now(UTC)
        spec = pipeline.model_dump(mode="json", by_alias=True)
        applied = PipelineApplied(
            pipeline=pipeline.pipeline, number=number, spec=spec, text="", digest="", applied_at=now, applied_by="test"
        )
        headers = headers_of(
            event_id=uuid.uuid4().hex, source="/test", event_type=applied.ce_type(), time=now, subject=applied.key, traceparent=None
        )
        self._producer.produce(
            self.settings.topic(applied.topic), applied.model_dump_json().encode(), applied.key.encode(), headers=list(headers.items())
        )
        self._producer.flush(30)

    def publish(
        self, values: Sequence[bytes], *, pipeline: str = "loans", partitions: int = 2, key: Callable[[bytes], bytes] | None = None
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

    # -- processes -----------------------------------------------------------------------------------------------------------------

    def start(self, replica: str = "0", **settings: object) -> None:
        if replica not in self._ports:
            (self._ports[replica],) = free_ports(1)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")} | {
            "PENSTOCK_HOME": str(self._home / replica),
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": self.settings.topic_prefix,
            "PENSTOCK_INGEST__PORT": str(self._ports[replica]),
            "PENSTOCK_INGEST__REPLICA": replica,
            **{f"PENSTOCK_INGEST__{name.upper()}": str(value) for name, value in settings.items()},
        }
        with (self._home / f"{replica}.log").open("ab") as log:
            self._processes[replica] = subprocess.Popen(
                [sys.executable, "-m", "penstock_ingest"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self, replica: str = "0") -> None:
        self._processes[replica].kill()
        self._processes.pop(replica).wait(10)

    def stop(self, replica: str = "0") -> int:
        self._processes[replica].send_signal(signal.SIGTERM)
        return self._processes.pop(replica).wait(20)

    def close(self) -> None:
        for replica in list(self._processes):
            self.kill(replica)

    def said(self, replica: str = "0") -> str:
        return (self._home / f"{replica}.log").read_text()

    # -- what became of it ---------------------------------------------------------------------------------------------------------

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

    def profile(self, pipeline: str = "loans", replica: str = "0") -> dict[str, ingest_pb2.FieldProfile]:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[replica]}") as channel:
            answer = ingest_pb2_grpc.IngestServiceStub(channel).GetProfile(
                ingest_pb2.GetProfileRequest(pipeline=pipeline, source="applications"), timeout=5
            )
        return {field.name: field for field in answer.fields}

    def position(self, pipeline: str = "loans") -> int:
        """Sum of the committed positions, without asking ingest."""
        topic = self.settings.topic(source_topic("events", pipeline, "applications"))
        consumer = Consumer(self.settings.client(group_id=self.settings.topic("penstock.ingest"), isolation_level="read_committed"))
        try:
            return sum(max(0, at.offset) for at in consumer.committed([TopicPartition(topic, number) for number in (0, 1)], timeout=10))
        except KafkaException:
            return -1
        finally:
            consumer.close()

    def reaches(self, total: int, pipeline: str = "loans", within: float = 30) -> None:
        until(lambda: self.position(pipeline) == total, within=within, what=f"{total} events of {pipeline} are taken")

    def read(self, kind: str, pipeline: str = "loans") -> dict[int, list[Any]]:
        """All committed messages, decoded, by partition, in order."""
        topic = self.settings.topic(source_topic(kind, pipeline, "applications"))  # type: ignore[arg-type]
        consumer = Consumer(
            self.settings.client(
                group_id=uuid.uuid4().hex, auto_offset_reset="earliest", isolation_level="read_committed", enable_partition_eof=True
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


def test_records_rejects_duplicates_across_a_restart_and_a_changed_pipeline(world: World) -> None:
    world.apply(small_pipeline())
    world.start()
    world.publish([event(str(number)) for number in range(1000)])
    world.publish([event("0"), event("1"), b"{", b"{", event("5000", income=-1), event("5001", incom=1)])
    world.reaches(1006)
    assert ids(world.read("records")) == {0: numbers(0, 1000, 0), 1: numbers(0, 1000, 1)}
    assert [[reject["reason"] for reject in found] for found in world.read("rejects").values()] == [
        ["not_json", "out_of_range"],
        ["not_json", "unknown_field"],
    ]

    assert world.stop() == 0
    world.publish([event("998"), event("999"), event("5000", income=1), event("5001")])
    world.start()
    world.reaches(1010)
    assert ids(world.read("records")) == {0: [*numbers(0, 1000, 0), "5000"], 1: [*numbers(0, 1000, 1), "5001"]}, (
        "a repaired reject is accepted"
    )
    assert sum(len(value) for found in world.read("seen").values() for value in found) == 8 * 1002

    world.apply(
        small_pipeline(
            fields={"income": {"type": "number", "range": [0, 10]}, "purpose": {"type": "category"}, "granted": {"type": "boolean"}}
        ),
        2,
    )
    until(lambda: '"number": 2' in world.said(), within=10, what="the change is read")
    world.publish([event("7000"), event("7001", income=10)])
    world.reaches(1012)
    counts = world.counts()
    assert counts is not None
    assert (counts.events, counts.records, counts.duplicates) == (1012, 1003, 4)
    assert counts.rejects == {"not_json": 2, "out_of_range": 2, "unknown_field": 1}
    assert [(one.partition, one.position, one.lag) for one in counts.partitions] == [(0, 506, 0), (1, 506, 0)]
    profile = world.profile()
    assert (profile["income"].present, profile["income"].minimum, profile["income"].maximum) == (1003, 1.0, 1000.0)
    assert profile["purpose"].values == {"car": 1003}
