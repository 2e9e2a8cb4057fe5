"""Predictions and events without pause, remembering each that was answered or acknowledged: what
must be there whatever was killed.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import orjson
from census import PIPELINE, Served, people, pipeline_text, tensors
from confluent_kafka import KafkaError, Producer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.client.client import Penstock
from penstock.client.connection import PREDICTION_RETRY
from penstock.client.events import Events
from penstock.contracts.topics import predictions_topic, source_topic
from penstock.testing.wait import until

AT_ONCE = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
]
PATIENT = [
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": PREDICTION_RETRY}]})),
    ("grpc.use_local_subchannel_pool", 1),
]
TICK_S = 0.02  # events of so long are published without a pause


@contextmanager
def under_load(
    served: Served, name: str, *, within: float = 120, patient: bool = False
) -> Iterator[tuple[Publishing, Load]]:
    """Within the block 200 events/s go to a pipeline `name` of its own, and predictions are asked
    for: without pause, or by patient clients 100 a second. On leaving, both must go on within so
    many seconds, and what was acknowledged or answered must be there once.
    """
    text = pipeline_text(name, gates="[]", epochs=2, compare="none")
    served.client.pipelines.apply(text, by="test")
    asking = predicting(served, threads=4, per_second=100, patient=True) if patient else predicting(served)
    with asking as load, publishing(served, name) as published:
        load.grows()
        published.grows()
        yield published, load
        published.grows(within=within)
        load.grows(within=within)
    all_records_once(served, name, published)
    all_recorded_once(served, load, within=within)


@dataclass
class Load:
    """Ids of answered predictions, and failures by status."""

    answered: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    def grows(self, by: int = 50, within: float = 120.0) -> None:
        """Waits for more answers: the door works again."""
        now = len(self.answered)
        until(
            lambda: len(self.answered) >= now + by,
            within=within,
            what=f"{by} more predictions are answered ({self.failed})",
        )


@contextmanager
def predicting(
    served: Served, *, pipeline: str = PIPELINE, threads: int = 2, per_second: int = 0, patient: bool = False
) -> Iterator[Load]:
    """Predictions from `threads` clients within the block, `per_second` from all together or without pause.

    Each retries nothing; or, `patient`, as the client library does, and gives up after 30 s.
    """
    load, stop = Load(), threading.Event()
    request = infer_request(served, pipeline)
    options, timeout = (PATIENT, 30) if patient else (AT_ONCE, 5)
    pause = threads / per_second if per_second else 0.0

    def predict() -> None:
        with grpc.insecure_channel(served.client.settings.endpoint, options=options) as channel:
            infer: Callable = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.with_call
            began = time.monotonic()
            for number in itertools.count():
                if stop.wait(max(0.0, began + number * pause - time.monotonic()) if pause else 0):
                    return
                try:
                    _, call = infer(request, timeout=timeout)
                    load.answered.append(dict(call.initial_metadata())["x-penstock-prediction"])
                except grpc.RpcError as error:
                    load.failed[error.code().name] = load.failed.get(error.code().name, 0) + 1
                    time.sleep(0.01)  # a client's pause before it asks again

    workers = [threading.Thread(target=predict) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield load
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)


def infer_request(served: Served, pipeline: str = PIPELINE, rows: int = 1) -> service_pb2.ModelInferRequest:
    """Some rows, as any client of the Open Inference Protocol sends them."""
    numbers, strings = tensors(served, served.events[:rows])
    request = service_pb2.ModelInferRequest(model_name=pipeline)
    for name, datatype, array in (("numbers", "FP64", numbers), ("strings", "BYTES", strings)):
        request.inputs.append(
            service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=array.shape)
        )
        request.raw_input_contents.append(_raw(array))
    return request


@dataclass
class Ids:
    """Ids on a topic with their multiplicity; each look reads on from where the last one ended."""

    events: Events
    topic: str
    of: Callable[[dict[str, Any]], str | None] = lambda said: said["id"]
    found: Counter[str] = field(default_factory=Counter)
    begin: dict[int, int] = field(default_factory=dict)

    def look(self) -> Counter[str]:
        for message in self.events.read(self.topic, self.begin):
            self.begin[message.partition() or 0] = (message.offset() or 0) + 1
            value = message.value()
            if value is not None and (found := self.of(orjson.loads(value))):
                self.found[found] += 1
        return self.found

    def more_than_once(self) -> dict[str, int]:
        return {found: count for found, count in self.look().items() if count != 1}


def all_recorded_once(served: Served, load: Load, within: float = 120.0) -> None:
    """Waits until each answered prediction has a record, and asserts that no prediction has two."""
    wanted = set(load.answered)
    topic = predictions_topic(PIPELINE)
    ids = Ids(served.client.events, topic, lambda said: said["id"] if said["status"] == "OK" else None)
    until(lambda: wanted <= ids.look().keys(), within=within, what="each answered prediction is recorded")
    assert ids.more_than_once() == {}


@dataclass
class Publishing:
    """Ids of events in their order: all that were sent, and those that Kafka acknowledged."""

    sent: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    def grows(self, by: int = 200, within: float = 120.0) -> None:
        """Waits for more acknowledgements: Kafka takes events again."""
        now = len(self.acknowledged)
        until(
            lambda: len(self.acknowledged) >= now + by,
            within=within,
            what=f"{by} more events are acknowledged ({self.failed})",
        )


@contextmanager
def publishing(
    served: Served, pipeline: str, *, per_second: int = 200, bootstrap_servers: str = ""
) -> Iterator[Publishing]:
    """Events of `pipeline`'s source `people` at a steady rate within the block, by a plain
    idempotent producer of the user's own.

    On leaving, what is in flight has been acknowledged or given up.
    """
    published, stop = Publishing(), threading.Event()
    kafka = served.client.settings.kafka
    producer = Producer(
        kafka.client(
            bootstrap_servers=bootstrap_servers or kafka.bootstrap_servers,
            enable_idempotence=True,
            linger_ms=5,
            message_timeout_ms=120_000,
        )
    )
    topic = source_topic("events", pipeline, "people")

    def told(event_id: str, error: KafkaError | None) -> None:
        if error is None:
            published.acknowledged.append(event_id)
        else:
            published.failed[error.name()] += 1

    def publish() -> None:
        began, at_once = time.monotonic(), max(1, round(per_second * TICK_S))
        for number, event in enumerate(itertools.islice(itertools.cycle(people()), 1_000_000)):
            event_id = f"load-{number}"
            value = orjson.dumps({**event, "event_id": event_id})
            producer.produce(
                topic,
                value,
                key=str(event["person_id"]),
                on_delivery=lambda error, _, id_=event_id: told(id_, error),
            )
            published.sent.append(event_id)
            if number % at_once:
                continue
            producer.poll(0)
            if stop.wait(max(0.0, began + number / per_second - time.monotonic())):
                return

    worker = threading.Thread(target=publish)
    worker.start()
    try:
        yield published
    finally:
        stop.set()
        worker.join(30)
        assert producer.flush(150) == 0


def all_records_once(served: Served, pipeline: str, published: Publishing, within: float = 120.0) -> None:
    """Waits until each acknowledged event is a record, and asserts that none is there twice. One
    given up may have arrived.
    """
    wanted, ids = set(published.acknowledged), records(served, pipeline)
    until(lambda: wanted <= ids.look().keys(), within=within, what="each acknowledged event is a record")
    assert ids.more_than_once() == {}
    assert ids.found.keys() <= set(published.sent)


def everything(served: Served) -> Events:
    """Events as who may read every topic has them; in containers a publisher may not."""
    settings = served.client.settings
    password = settings.kafka.sasl_password_file
    if password is None:
        return served.client.events
    admin = {"sasl_username": "admin", "sasl_password_file": password.with_name("kafka_admin_password")}
    kafka = settings.kafka.model_copy(update=admin)
    return Penstock(settings.model_copy(update={"kafka": kafka})).events


def records(served: Served, pipeline: str) -> Ids:
    return Ids(everything(served), source_topic("records", pipeline, "people"))


def record_ids(served: Served, pipeline: str) -> Counter[str]:
    """How often each id is on the records topic: multiplicity counts."""
    return records(served, pipeline).look()


def _raw(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.astype("<f8").tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in array.ravel())
