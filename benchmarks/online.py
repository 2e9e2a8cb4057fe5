"""Online features over gRPC beside what they rest on: the statement that reads the rows, and a bare
server that echoes the same bytes.

    python benchmarks/online.py [--rounds 10] [--json]

The feature store's servicer over SQLite, 5,000 entities with 15 fields, in a process of its own; one
client, one call in flight. A round asks the echo and the store in turn, 1 and 100 entities, 200
times each; the ratio is of one round. Then the same while 2,000 records a second are written by the
same process. Takes about a minute and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pyarrow as pa
import structlog

from penstock.contracts.pipeline import Pipeline
from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.feature_store.v1 import feature_store_pb2_grpc
from penstock.runtime import rpc
from penstock.testing.broker import free_ports
from penstock.testing.threads import beside
from penstock_feature_store import names
from penstock_feature_store.lake.batches import conform, source_schema
from penstock_feature_store.online.repository import apply
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.online.stores import OnlineStore
from penstock_feature_store.pipelines import Held
from penstock_feature_store.servicer import Servicer, add_to_server

ENTITIES, CALLS, WRITTEN_PER_S, AT_ONCE = 5_000, 200, 2_000, 100
COUNTS = (1, 100)
FIELDS = {
    **{f"amount_{number}": {"type": "number"} for number in range(9)},
    **{f"kind_{number}": {"type": "category"} for number in range(6)},
}
PIPELINE = Pipeline.model_validate(
    {
        "version": 1,
        "pipeline": "bench",
        "entities": {"person": {"key": "person_id"}},
        "sources": {
            "people": {
                "entity": "person",
                "id": "event_id",
                "timestamp": "at",
                "fields": FIELDS | {"resident": {"type": "boolean"}},
            }
        },
        "features": {name: {"from": f"people.{name}"} for name in FIELDS},
        "targets": {"resident": {"from": "people.resident", "type": "binary"}},
    }
)


def rows(numbers: Sequence[int], first_offset: int) -> pa.Table:
    """Records of these entities, as the lake holds them."""
    draw, now, count = random.Random(first_offset), datetime.now(UTC), len(numbers)
    columns: dict[str, Any] = {
        names.ID: [f"e{first_offset + place:012d}" for place in range(count)],
        names.ENTITY: [f"p{number:06d}" for number in numbers],
        names.TIME: [now] * count,
        names.INGESTED: [now] * count,
        names.PARTITION: [0] * count,
        names.OFFSET: range(first_offset, first_offset + count),
        names.RECORD: range(first_offset, first_offset + count),
    }
    for name in FIELDS:
        amount = name.startswith("amount")
        columns[name] = [draw.random() if amount else f"kind {draw.randrange(9)}" for _ in numbers]
    return conform(
        pa.table({name: list(values) for name, values in columns.items()}),
        source_schema(PIPELINE.sources["people"]),
    )


# -- the server's process ------------------------------------------------------------------------------


async def serve(folder: Path, port: int, echo_port: int) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    stores = SqliteOnlineStores()
    apply(PIPELINE, folder, folder / "lake", stores)
    reader, writer = (stores.open(folder, PIPELINE) for _ in range(2))
    writer.write("people", rows(range(ENTITIES), 0))
    gc.freeze()  # what is loaded by now stays, as `penstock.runtime.loading` has it in the service
    held, owns = Held(PIPELINE, 1, reader), SimpleNamespace(ownership=SimpleNamespace(mine=True))
    nothing: Any = None
    servicer = Servicer(
        cast("Any", SimpleNamespace(get=lambda _: held)),
        nothing,
        nothing,
        nothing,
        cast("Any", owns),
        online=False,
    )
    server, echo, methods = rpc.server(), grpc.aio.server(), rpc.Methods()
    add_to_server(servicer, methods)
    server.add_generic_rpc_handlers((methods,))

    async def same(request: bytes, _context: object) -> bytes:
        return request

    handler = grpc.unary_unary_rpc_method_handler(same)
    echo.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Echo": handler}),))
    for one, at in ((server, port), (echo, echo_port)):
        one.add_insecure_port(f"127.0.0.1:{at}")
        await one.start()
    print(json.dumps({str(count): read_s(reader, count) for count in COUNTS}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    with beside(partial(write, writer)):
        await asyncio.to_thread(sys.stdin.readline)


def read_s(store: OnlineStore, count: int) -> float:
    """Median seconds of the statement alone."""
    draw, taken = random.Random(1), []
    for _ in range(1000):
        asked = [f"p{draw.randrange(ENTITIES):06d}" for _ in range(count)]
        began = time.perf_counter()
        store._packed("people", asked)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def write(store: OnlineStore, stop: threading.Event) -> None:
    """So many records a second, or as many as it can."""
    draw, offset, began = random.Random(2), 10_000_000, time.monotonic()
    while not stop.is_set():
        store.write("people", rows([draw.randrange(ENTITIES) for _ in range(AT_ONCE)], offset))
        offset += AT_ONCE
        ahead = (offset - 10_000_000) / WRITTEN_PER_S - (time.monotonic() - began)
        stop.wait(max(ahead, 0.0))
    print(round((offset - 10_000_000) / (time.monotonic() - began)), flush=True)


# -- the client ----------------------------------------------------------------------------------------


class Client:
    def __init__(self, port: int, echo_port: int) -> None:
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{at}") for at in (port, echo_port)]
        stub = feature_store_pb2_grpc.FeatureStoreServiceStub(self._channels[0])
        self._features = stub.GetOnlineFeatures
        self._echo = self._channels[1].unary_unary("/bench/Echo")
        self._draw = random.Random(3)

    async def features(self, count: int) -> list[float]:
        """Seconds of each call."""
        taken = []
        for _ in range(CALLS):
            asked = [f"p{self._draw.randrange(ENTITIES):06d}" for _ in range(count)]
            request = pb.GetOnlineFeaturesRequest(pipeline="bench", entities=asked)
            began = time.perf_counter()
            self.answer = await self._features(request)
            taken.append(time.perf_counter() - began)
        assert len(self.answer.entities) == count
        return taken

    async def echo(self) -> list[float]:
        """Seconds of each call that brings back the bytes of the last answer."""
        said, taken = self.answer.SerializeToString(), []
        for _ in range(CALLS):
            began = time.perf_counter()
            pb.GetOnlineFeaturesResponse.FromString(await self._echo(said))
            taken.append(time.perf_counter() - began)
        return taken


async def measure(port: int, echo_port: int, server: subprocess.Popen[str], rounds: int) -> dict[str, Any]:
    assert server.stdin
    assert server.stdout
    reads = json.loads(await asyncio.to_thread(server.stdout.readline))
    client, found = Client(port, echo_port), dict[str, Any]()
    for count in COUNTS:
        await client.features(count)
        both = [(await client.features(count), await client.echo()) for _ in range(rounds)]
        base = reads[str(count)]
        ratios = [statistics.median(one) / (statistics.median(echo) + base) for one, echo in both]
        found[str(count)] = {
            "p50_ms": statistics.median(statistics.median(one) for one, _ in both) * 1000,
            "echo_ms": statistics.median(statistics.median(echo) for _, echo in both) * 1000,
            "read_ms": base * 1000,
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "greatest": max(ratios),
        }
    server.stdin.write("write\n")
    server.stdin.flush()
    await client.features(100)
    taken = sorted([one for _ in range(rounds) for one in await client.features(100)])
    found["writing"] = {
        "p50_ms": statistics.median(taken) * 1000,
        "p99_ms": taken[len(taken) * 99 // 100] * 1000,
    }
    server.stdin.write("stop\n")
    server.stdin.flush()
    found["writing"]["written_per_s"] = json.loads(await asyncio.to_thread(server.stdout.readline))
    return found


def run(rounds: int) -> dict[str, Any]:
    port, echo_port = free_ports(2)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", folder, str(port), str(echo_port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            try:
                return asyncio.run(measure(port, echo_port, server, rounds))
            finally:
                server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=3, metavar=("FOLDER", "PORT", "ECHO"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        folder, port, echo_port = asked.serve
        asyncio.run(serve(Path(folder), int(port), int(echo_port)))
        return
    found = run(asked.rounds)
    if asked.json:
        print(json.dumps(found))
        return
    for count in COUNTS:
        one = found[str(count)]
        print(
            f"{count:>4} entities  p50 {one['p50_ms']:.2f} ms   echo {one['echo_ms']:.2f} + read"
            f" {one['read_ms']:.2f} ms   {one['ratio']:.2f} [{one['least']:.2f}, {one['greatest']:.2f}]"
        )
    writing = found["writing"]
    print(
        f" 100 entities, 2,000 records/s written: p50 {writing['p50_ms']:.2f}, p99 {writing['p99_ms']:.2f} ms"
    )


if __name__ == "__main__":
    main()
