"""Predictions a second that one recorder reads from the door's log and publishes exactly once, beside
a producer of the same messages in the same transactions.

    python benchmarks/recorder.py [--predictions 40000] [--rounds 5] [--json]

One row of 6 numbers and 8 texts a prediction, as census income has; a broker of its own on this
machine. Both are measured in turn. `recorder_us` is the processor time of a prediction in the
recorder's process, librdkafka's threads among it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import tempfile
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer
from tritonclient.grpc import service_pb2

from penstock.contracts.topics import Topic
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.clients import transactional_producer
from penstock.runtime.settings import KafkaSettings
from penstock.serving.model import Layout
from penstock.serving.records import encoded
from penstock.testing.broker import EmbeddedKafka
from penstock_inference.door.door import LOG_FILE
from penstock_inference.record.predictions import read_line
from penstock_inference.record.publisher import Publisher
from penstock_inference.record.recorder import Recorder
from penstock_inference.serving.triton import infer_request

PIPELINE = "bench"
A_TRANSACTION = 5_000
NUMBERS = [39.0, 77516.0, 13.0, 2174.0, 0.0, 40.0]
STRINGS = ["State-gov", "Bachelors", "Never-married", "Adm-clerical", "Other", "White", "Male", "Peru"]
LAYOUT = Layout(
    "sha256:" + "a" * 64, 3, tuple(f"number_{n}" for n in range(6)), tuple(f"text_{n}" for n in range(8))
)


def line(number: int) -> bytes:
    """A call as the door writes it."""
    request = infer_request(PIPELINE, None, [NUMBERS], [STRINGS]).SerializeToString()
    response = service_pb2.ModelInferResponse(model_name=PIPELINE, model_version="3")
    response.outputs.add(name="probabilities", datatype="FP32", shape=[1, 2])
    response.outputs.add(name="decision", datatype="BYTES", shape=[1, 1])
    response.raw_output_contents.extend([struct.pack("<2f", 0.25, 0.75), struct.pack("<I", 4) + b"good"])
    bodies = {"request": _framed(request), "response": _framed(response.SerializeToString())}
    return (
        json.dumps(
            {
                "grpc_status": 0,
                "status": 200,
                "milliseconds": 2.125,
                "protocol": "grpc",
                "id": str(uuid.UUID(int=number)),
                "time": "2026-11-23T18:08:07.448968Z",
                "path": "/inference.GRPCInferenceService/ModelInfer",
                "traceparent": None,
                "request_encoding": None,
                "request_header_length": None,
                "response_encoding": None,
                "response_header_length": None,
                **{name: b64encode(body).decode() for name, body in bodies.items()},
                **{f"{name}_bytes": len(body) for name, body in bodies.items()},
            }
        ).encode()
        + b"\n"
    )


def _framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def recorded(kafka: KafkaSettings, folder: Path, count: int) -> tuple[float, float]:
    """Predictions a second from the session's beginning to the last commit, and the processor time of
    one in microseconds.
    """
    stop, began = threading.Event(), [0.0, 0.0]

    def publisher() -> Publisher:
        made = Publisher(kafka, uuid.uuid4().hex, folder / "position.json")
        began[:] = time.perf_counter(), time.process_time()
        return made

    size = (folder / LOG_FILE).stat().st_size
    recorder = Recorder(
        folder,
        publisher,
        layouts=lambda *_: LAYOUT,
        ensure_topic=lambda name: None,
        tidy=lambda tail, position: stop.set() if position and position.offset == size else None,
    )
    recorder.run(stop)
    return count / (time.perf_counter() - began[0]), (time.process_time() - began[1]) / count * 1e6


def produced(kafka: KafkaSettings, values: Sequence[bytes]) -> float:
    """Messages a second of a transactional producer that has nothing else to do."""
    producer = transactional_producer(kafka, uuid.uuid4().hex, compression="lz4", on_failure=lambda *_: None)
    producer.init_transactions(30)
    began = time.perf_counter()
    for first in range(0, len(values), A_TRANSACTION):
        producer.begin_transaction()
        for number, value in enumerate(values[first : first + A_TRANSACTION], first):
            _produce(producer, kafka.topic(f"{PIPELINE}.predictions.v1"), value, str(number))
        producer.commit_transaction(30)
    return len(values) / (time.perf_counter() - began)


def _produce(producer: Producer, topic: str, value: bytes, key: str) -> None:
    while True:
        try:
            return producer.produce(topic, value, key)
        except BufferError:
            producer.poll(0.1)


def measure(bootstrap_servers: str, count: int, rounds: int) -> dict[str, float]:
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topic_prefix=f"{uuid.uuid4().hex[:8]}.")
    ensure_topics(
        kafka,
        [
            Topic(name, owner="inference", consumers=(), key="", about="", messages=())
            for name in ("deployments.v1", f"{PIPELINE}.predictions.v1")
        ],
    )
    lines = [line(number) for number in range(count)]
    values = [encoded(read_line(one, lambda *_: LAYOUT)[1]) for one in lines]
    found: dict[str, list[float]] = {"producer_per_s": [], "recorder_per_s": [], "recorder_us": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / LOG_FILE).write_bytes(b"".join(lines))
            found["producer_per_s"].append(produced(kafka, values))
            per_s, us = recorded(kafka, Path(folder), count)
            found["recorder_per_s"].append(per_s)
            found["recorder_us"].append(us)
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with EmbeddedKafka() as kafka:
        found = measure(kafka.bootstrap_servers, asked.predictions, asked.rounds)
    if asked.json:
        print(json.dumps(found))
        return
    print(f"producer of the same messages {found['producer_per_s']:>9,.0f} /s")
    print(f"recorder                      {found['recorder_per_s']:>9,.0f} /s", end="")
    print(f"   {found['recorder_us']:.0f} µs of processor time a prediction")


if __name__ == "__main__":
    main()
