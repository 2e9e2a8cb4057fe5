"""Predictions a second and their latency: Triton called directly, through an Envoy that records
nothing, and through the door, which records each; in one run, in turn.

    python benchmarks/serving.py [--home .penstock] [--pipeline NAME] [--seconds 3] [--json]

Without `--home` it brings up Kafka, Triton, Envoy and inference for itself, with a model of one
number and one text. One asyncio client sends rows one at a time over one connection, 1, 8 and 32 of
them in flight; client, door, Triton and recorder share this machine. Each measurement is taken
three times, in turn, and the middle one counts. At the end everything answered through the door
must be recorded, once. Takes a minute and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from confluent_kafka import Consumer, TopicPartition
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.contracts.topics import predictions_topic
from penstock.inference.v1 import inference_pb2, inference_pb2_grpc
from penstock.stack import envoy
from penstock.stack.stack import Stack
from penstock.stack.stackfile import StackFile
from penstock.testing.broker import free_ports
from penstock.testing.stack import running_stack
from penstock.testing.wait import until
from penstock_inference.door.bootstrap import ROUTES_FILE
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import prepare, write_resources
from penstock_inference.door.routes import routes
from penstock_inference.serving.triton import infer_request

TRITON, UNRECORDED, RECORDED = "triton", "Envoy, nothing recorded", "door, recorded"
IN_FLIGHT = (1, 8, 32)
ROUNDS = 3
RECORDED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Figure:
    path: str
    in_flight: int
    per_second: float
    p50_ms: float
    p99_ms: float


def measure(stack: Stack, pipeline: str, seconds: float) -> tuple[list[Figure], int]:
    """The figures, and how many predictions went through the door."""
    with unrecorded(stack.file.triton_grpc) as envoy_alone:
        paths = {TRITON: stack.file.triton_grpc, UNRECORDED: envoy_alone, RECORDED: stack.endpoint}
        return measured(paths, a_row(stack.file.triton_grpc, pipeline), seconds)


def measured(
    paths: Mapping[str, str], request: service_pb2.ModelInferRequest, seconds: float
) -> tuple[list[Figure], int]:
    taken: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(ROUNDS):
        for in_flight in IN_FLIGHT:
            for path, address in paths.items():
                taken.setdefault((path, in_flight), []).append(
                    asyncio.run(call(address, request, in_flight, seconds))
                )
    through_the_door = sum(
        len(latencies) for (path, _), rounds in taken.items() for latencies in rounds if path == RECORDED
    )
    return [
        figure(path, in_flight, rounds, seconds) for (path, in_flight), rounds in taken.items()
    ], through_the_door


async def call(
    address: str, request: service_pb2.ModelInferRequest, in_flight: int, seconds: float
) -> list[float]:
    """Latencies in seconds. Any failure ends the benchmark."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        await asyncio.gather(*(infer(request, wait_for_ready=True) for _ in range(in_flight)))  # warm
        end = time.perf_counter() + seconds

        async def client() -> None:
            while (began := time.perf_counter()) < end:
                await infer(request)
                latencies.append(time.perf_counter() - began)

        await asyncio.gather(*(client() for _ in range(in_flight)))
    return latencies


def figure(path: str, in_flight: int, rounds: Sequence[list[float]], seconds: float) -> Figure:
    latencies = sorted(rounds, key=len)[len(rounds) // 2]
    cuts = statistics.quantiles(latencies, n=100)
    return Figure(
        path, in_flight, round(len(latencies) / seconds), round(cuts[49] * 1000, 2), round(cuts[98] * 1000, 2)
    )


def a_row(address: str, pipeline: str) -> service_pb2.ModelInferRequest:
    """Request with one row of the model's shape: ones and short texts."""
    with grpc.insecure_channel(address) as channel:
        metadata = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelMetadata(
            service_pb2.ModelMetadataRequest(name=pipeline), timeout=10
        )
    columns = {tensor.name: tensor.shape[1] for tensor in metadata.inputs}
    return infer_request(
        pipeline, None, [[1.0] * columns.get("numbers", 0)], [["private"] * columns.get("strings", 0)]
    )


def recorded(stack: Stack, pipeline: str) -> int:
    """Predictions in the record."""
    consumer = Consumer(
        stack.kafka.client(group_id="benchmark", isolation_level="read_committed", enable_partition_eof=True)
    )
    topic = stack.kafka.topic(predictions_topic(pipeline))
    consumer.assign([TopicPartition(topic, 0, 0)])
    count = 0
    try:
        while True:
            for message in consumer.consume(10_000, 1.0):
                if message.error():
                    return count
                count += 1
    finally:
        consumer.close()


@contextmanager
def unrecorded(triton: str) -> Iterator[str]:
    """Address of an Envoy with the door's own documents, whose routes do not run the script."""
    listen, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory(prefix="penstock-envoy-") as folder:
        door = Door(Path(folder), listen, admin, Backends(triton, triton, triton), {})
        prepare(door)
        ways = routes(door, required=False)
        for way in ways["virtual_hosts"][0]["routes"]:
            way.pop("typed_per_filter_config", None)
        write_resources(door.folder, ROUTES_FILE, [ways])
        process = subprocess.Popen(envoy.command(door.folder), stderr=subprocess.DEVNULL)
        try:
            yield listen
        finally:
            process.kill()
            process.wait()


@contextmanager
def own_stack() -> Iterator[tuple[Stack, str]]:
    """Everything that a prediction needs, and a model."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "services" / "inference" / "tests" / "support"))
    from penstock.testing.promoting import NAME, Registry

    with running_stack(["inference"]) as under_test:
        Registry.at(under_test.home, under_test.stack.admin).promote()
        with grpc.insecure_channel(under_test.endpoint) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            until(
                lambda: stub.GetServing(inference_pb2.GetServingRequest()).pipelines,
                within=60,
                what="the model is served",
            )
        yield under_test.stack, NAME


def run(seconds: float = 3.0, home: Path | None = None, pipeline: str | None = None) -> dict[str, Any]:
    """Runs all of it; returns the report as data."""
    if home is not None:
        return report(Stack(StackFile.read(home)), pipeline or "adult-income", seconds)
    with own_stack() as (stack, name):
        return report(stack, name, seconds)


def report(stack: Stack, pipeline: str, seconds: float) -> dict[str, Any]:
    before = recorded(stack, pipeline)
    figures, answered = measure(stack, pipeline, seconds)
    began = time.monotonic()
    expected = before + answered + ROUNDS * sum(IN_FLIGHT)
    until(
        lambda: recorded(stack, pipeline) >= expected,
        within=RECORDED_WITHIN_S,
        what="every prediction is recorded",
    )
    late = round(time.monotonic() - began, 1)
    return {
        "figures": [asdict(one) for one in figures],
        "answered_through_the_door": expected - before,
        "recorded": recorded(stack, pipeline) - before,
        "recorded_after_s": late,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path)
    parser.add_argument("--pipeline")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(given.seconds, given.home, given.pipeline)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{'path':24} {'in flight':>9} {'per second':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for one in found["figures"]:
        print(
            f"{one['path']:24} {one['in_flight']:9} {one['per_second']:10,.0f} {one['p50_ms']:8.2f}"
            f" {one['p99_ms']:8.2f}"
        )
    print(
        f"{found['answered_through_the_door']:,} answered through the door, {found['recorded']:,} recorded",
        end="",
    )
    print(f", the last {found['recorded_after_s']} s after its answer")


if __name__ == "__main__":
    main()
