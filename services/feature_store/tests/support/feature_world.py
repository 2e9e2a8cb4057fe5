"""The feature store as a process of its own against the real broker, and what stands in for ingest:
its topics and transactions.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import orjson
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from penstock.contracts.events import Event, TrainingSet, decode
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import SHARED, pipeline_topics, source_topic
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1.feature_store_pb2_grpc import FeatureStoreServiceStub
from penstock.packages.keys import Keys
from penstock.runtime.cloud_events import headers_of
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.status.v1.status_pb2 import GetStatusRequest, ServiceStatus
from penstock.status.v1.status_pb2_grpc import StatusServiceStub
from penstock.testing.broker import Kafka, free_ports
from penstock.testing.packages import applied
from penstock.testing.wait import until

NOW = datetime.now(UTC).replace(microsecond=0)


def application(entity: str, minutes: float, income: float | None = 1.0, **more: Any) -> dict[str, Any]:
    fields = {"income": income, "purpose": "car", "Married": True, "country_y": "nl", "sex": "f"}
    return {"entity": entity, "minutes": minutes, "fields": fields} | more


def outcome(entity: str, defaulted: bool | None, minutes: float = 0) -> dict[str, Any]:
    return {"entity": entity, "minutes": minutes, "fields": {"defaulted": defaulted}}


def numbers(found: pb.EntityFeatures) -> list[Any]:
    return [
        getattr(value, value.WhichOneof("kind")) if value.WhichOneof("kind") else None
        for value in found.values
    ]


class Replica:
    """One process of the service."""

    def __init__(
        self, settings: KafkaSettings, home: Path, environment: Mapping[str, str], name: str = "0"
    ) -> None:
        self.settings = settings
        self.home = home
        self.name = name
        (self.port,) = free_ports(1)
        self._given = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = FeatureStoreServiceStub(self._channel)

    def start(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")
        } | {
            "PENSTOCK_HOME": str(self.home),
            "PENSTOCK_KAFKA__BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "PENSTOCK_KAFKA__TOPIC_PREFIX": self.settings.topic_prefix,
            "PENSTOCK_FEATURE_STORE__PORT": str(self.port),
            "PENSTOCK_FEATURE_STORE__REPLICA": self.name,
            **self._given,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "penstock_feature_store"], env=environment, stdout=log, stderr=log
            )

    @property
    def _log(self) -> Path:
        return self.home / f"service-{self.name}.log"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> int:
        assert self._process
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(30)
        self._process = None
        return code

    def said(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self.kill()
        self._channel.close()

    # -- what it answers ---------------------------------------------------------------------------

    def positions(self, pipeline: str) -> dict[str, pb.SourcePosition]:
        """Empty while the service does not know the pipeline, or is not up."""
        try:
            found = self.stub.GetPositions(pb.GetPositionsRequest(pipeline=pipeline), timeout=10)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                return {}
            raise
        return {position.source: position for position in found.sources}

    def knows(self, pipeline: str, within: float = 60) -> None:
        until(lambda: self.positions(pipeline), within=within, what=f"the service knows {pipeline}")

    def holds(self, pipeline: str, source: str, rows: int, within: float = 60) -> None:
        until(
            lambda: (found := self.positions(pipeline).get(source)) and found.rows == rows,
            within=within,
            what=f"{rows} rows of {source} in the lake",
        )

    def training_set(
        self,
        pipeline: str,
        name: str,
        *,
        below: Mapping[str, Mapping[int, int]] | None = None,
        timeout: float = 60,
    ) -> TrainingSet:
        offsets = [
            pb.PartitionOffset(
                topic=self.settings.topic(source_topic("events", pipeline, source)),
                partition=partition,
                offset=offset,
            )
            for source, partitions in (below or {}).items()
            for partition, offset in partitions.items()
        ]
        request = pb.CreateTrainingSetRequest(pipeline=pipeline, id=name, min_offsets=offsets)
        return TrainingSet.model_validate_json(
            self.stub.CreateTrainingSet(request, timeout=timeout).training_set_json
        )

    def online(
        self, pipeline: str, entities: Sequence[str], fields: Sequence[str] = ()
    ) -> list[pb.EntityFeatures]:
        return list(
            self.stub.GetOnlineFeatures(
                pb.GetOnlineFeaturesRequest(pipeline=pipeline, entities=entities, fields=fields), timeout=10
            ).entities
        )

    def status(self) -> ServiceStatus | None:
        """What `penstock status` shows; None while it does not answer."""
        try:
            return StatusServiceStub(self._channel).GetStatus(GetStatusRequest(), timeout=10).services[0]
        except grpc.RpcError:
            return None

    def owns(self) -> bool:
        """The lake, and all that belongs to it has begun."""
        try:
            lake = json.loads((self.home / "feature_store" / "lake" / "owner.json").read_bytes())
        except FileNotFoundError:
            return False
        found = self.status() if lake["address"] == f"127.0.0.1:{self.port}" else None
        return found is not None and "lake" not in {wait.thing for wait in found.waiting}

    def waits_for(self) -> dict[str, str]:
        """Why, by thing."""
        found = self.status()
        return {wait.thing: wait.why for wait in found.waiting} if found else {"": "it does not answer"}


class World(Replica):
    """The first replica, and what it needs around it."""

    def __init__(self, kafka: Kafka, home: Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(kafka.settings(f"fs-{uuid.uuid4().hex[:8]}."), home, environment or {})
        ensure_topics(
            self.settings, [topic for topic in SHARED if topic.name in ("pipelines.v1", "training-runs.v1")]
        )
        self.keys = Keys(home / "keys")
        self.keys.ensure()
        self._producer = Producer(self.settings.client(enable_idempotence=True))
        self._ingest = Producer(
            self.settings.client(transactional_id=f"{self.settings.topic_prefix}ingest", retry_backoff_ms=1)
        )
        self._ingest.init_transactions(30)
        self._group = Consumer(self.settings.client(group_id=self.settings.topic("penstock.ingest")))
        self.taken: dict[tuple[str, str, int], int] = {}
        """Events answered so far, by pipeline, source and partition."""

    def close(self) -> None:
        super().close()
        self._group.close()

    # -- what others do ----------------------------------------------------------------------------

    def apply(self, pipeline: Pipeline, number: int = 1) -> None:
        ensure_topics(self.settings, pipeline_topics(pipeline))
        spec = pipeline.model_dump(mode="json", by_alias=True)
        self.tell(applied(self.keys, "", number, spec=spec))

    def tell(self, event: Event) -> None:
        headers = headers_of(
            event_id=uuid.uuid4().hex,
            source="/test",
            event_type=event.ce_type(),
            time=NOW,
            subject=event.key,
            traceparent=None,
        )
        value = event.model_dump_json().encode()
        self._producer.produce(
            self.settings.topic(event.topic), value, event.key.encode(), headers=list(headers.items())
        )
        self._producer.flush(30)

    def ingest(
        self,
        pipeline: str,
        source: str,
        rows: Sequence[Mapping[str, Any] | None],
        *,
        partition: int = 0,
        decide: bool = True,
        commit: bool = True,
    ) -> int:
        """One transaction of ingest over the next events of a partition. A row: entity, minutes
        (before now) and fields; None: a reject.

        Returns the offset after the last event. Without `decide` the transaction stays open;
        without `commit` it is aborted.
        """
        place = (pipeline, source, partition)
        first = self.taken.get(place, 0)
        records = self.settings.topic(source_topic("records", pipeline, source))
        self._ingest.begin_transaction()
        for offset, row in enumerate(rows, first):
            if row is not None:
                self._ingest.poll(0)
                time = NOW - timedelta(minutes=row.get("minutes", 0))
                record = {
                    "id": row.get("id", f"{source}-{partition}-{offset}"),
                    "entity": row["entity"],
                    "time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                    "partition": partition,
                    "offset": offset,
                    "traceparent": row.get("traceparent"),
                    "fields": row["fields"],
                }
                self._ingest.produce(
                    records, orjson.dumps(record), row["entity"].encode(), partition=partition
                )
        after = first + len(rows)
        if decide:
            self.decide(pipeline, source, partition, after, commit=commit)
        return after

    def decide(self, pipeline: str, source: str, partition: int, after: int, *, commit: bool = True) -> None:
        if not commit:
            self._ingest.abort_transaction(30)
            return
        events = self.settings.topic(source_topic("events", pipeline, source))
        offsets = [TopicPartition(events, partition, after)]
        self._ingest.send_offsets_to_transaction(offsets, self._group.consumer_group_metadata(), 30)
        self._ingest.commit_transaction(30)
        self.taken[pipeline, source, partition] = after

    def flush(self) -> None:
        self._ingest.flush(30)

    def produce(self, topic: str, value: bytes) -> None:
        """What anybody may write, to partition 0."""
        self._producer.produce(self.settings.topic(topic), value, partition=0)
        self._producer.flush(30)

    @contextmanager
    def events(self, topic: str) -> Iterator[list[Event]]:
        """The control events of a topic from its beginning; the list grows when `listen` is called on it."""
        consumer = Consumer(self.settings.client(group_id=uuid.uuid4().hex, auto_offset_reset="earliest"))
        consumer.assign([TopicPartition(self.settings.topic(topic), 0, 0)])
        found = Listened(consumer)
        try:
            yield found
        finally:
            consumer.close()


class Listened(list[Event]):
    def __init__(self, consumer: Consumer) -> None:
        super().__init__()
        self._consumer = consumer

    def listen(self) -> list[Event]:
        for message in self._consumer.consume(100, 0.05):
            if event := _event(message):
                self.append(event)
        return self


def _event(message: Message) -> Event | None:
    headers = dict(message.headers() or ())
    return (
        decode(headers["ce_type"].decode(), message.value())
        if message.value() and "ce_type" in headers
        else None
    )  # type: ignore[union-attr,arg-type]
