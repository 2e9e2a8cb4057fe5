"""A site's events a second, in and out: published to its disk, and from there into the topics.

    python benchmarks/edge.py [--events 40000] [--json]

Publish: 64 callers, over gRPC an event or ten a call, over HTTP an event, each answered when on disk;
beside it the spool alone with as many waiting. Drain: a spool that is full of events, over gRPC through
the hub's transactions; beside it one transactional producer with the same batches. All share this
machine. Takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import grpc
import uvloop
from confluent_kafka import Producer

from penstock.contracts.load import read
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.topics import SHARED, pipeline_topics
from penstock.edge_gateway.v1 import site_pb2, site_pb2_grpc
from penstock.runtime import rpc
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.settings import KafkaSettings
from penstock.testing.broker import EmbeddedKafka, free_ports
from penstock.testing.wait import until_async
from penstock_edge_gateway.site import http
from penstock_edge_gateway.site.forwarder import RECORDS, Forwarder
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.open_inference import OpenInference
from penstock_edge_gateway.site.pseudonym_keys import PseudonymKeys
from penstock_edge_gateway.site.publisher import Publisher
from penstock_edge_gateway.site.site_servicer import SiteServicer
from penstock_edge_gateway.site.spool import Record, Spool

ROOT = Path(__file__).resolve().parents[1]
HUB = ROOT / "services" / "edge_gateway" / "tests" / "support" / "forwarder_process.py"
NAME, SOURCE = "credit-risk", "applications"
FOR_S = 4.0
IN_FLIGHT = 64


def pipeline() -> Pipeline:
    return read((ROOT / "examples" / NAME / "pipeline.yaml").read_text())


def events(count: int) -> list[bytes]:
    """Applications of some 300 bytes, hardly compressible."""
    draw = random.Random(7)
    return [
        json.dumps(
            {
                "application_id": f"a{number}",
                "applicant_id": f"p{draw.randrange(10_000)}",
                "submitted_at": "2026-03-01T12:00:00Z",
                **{f"field_{field}": draw.random() for field in range(10)},
            }
        ).encode()
        for number in range(count)
    ]


# -- publish -------------------------------------------------------------------------------------------


async def rate(call: Callable[[], Awaitable[object]]) -> float:
    """Calls a second, so many in flight."""
    end, done = time.perf_counter() + FOR_S, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return done / FOR_S


@contextmanager
def site(folder: Path) -> Iterator[tuple[str, int]]:
    """A site that takes events; its address for gRPC, and its port for HTTP."""
    command = [sys.executable, ROOT / "benchmarks" / "edge.py", "--serve", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        grpc_port, http_port = process.stdout.readline().split()
        yield f"127.0.0.1:{grpc_port}", int(http_port)
    finally:
        process.kill()
        process.wait()


async def published(each: int, folder: Path) -> float:
    """Events a second of callers with so many a call."""
    with site(folder) as (address, _):
        async with grpc.aio.insecure_channel(address) as channel:
            stub = site_pb2_grpc.SiteServiceStub(channel)
            batch = [json.dumps(plain(number)).encode() for number in range(each)]
            request = site_pb2.PublishRequest(pipeline="bench", source="events", events=batch)
            answer = await stub.Publish(request)
            assert answer.accepted == each, answer
            return each * await rate(lambda: stub.Publish(request))


async def posted(folder: Path) -> float:
    """Events a second over HTTP, one a call, each caller with a connection that it keeps."""
    body = json.dumps(plain(0)).encode()
    head = (
        "POST /v1/pipelines/bench/sources/events/events HTTP/1.1",
        "host: site",
        f"content-length: {len(body)}",
    )
    request = "\r\n".join([*head, "", ""]).encode() + body
    with site(folder) as (_, port):
        await until_async(lambda: reached(port), what="the site listens")
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IN_FLIGHT)]

        async def post() -> None:
            reader, writer = idle.pop()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert b'{"accepted":1,' in answer, answer
            idle.append((reader, writer))

        return await rate(post)


def reached(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def plain(number: int) -> dict[str, object]:
    said = {"id": f"a{number}", "key": f"p{number}", "at": "2026-03-01T12:00:00Z"}
    return said | {"x": 2.5, "kind": "y" * 200}


BENCH = {
    "version": 1,
    "pipeline": "bench",
    "entities": {"one": {"key": "key"}},
    "sources": {
        "events": {
            "entity": "one",
            "id": "id",
            "timestamp": "at",
            "fields": {"x": {"type": "number"}, "kind": {"type": "category"}, "good": {"type": "boolean"}},
        }
    },
    "targets": {"good": {"from": "events.good", "type": "binary"}},
}


async def serve(folder: Path) -> None:
    """A site that takes events and does nothing else; prints its ports."""
    file = Pipeline.model_validate(BENCH)
    with Spool(folder / "events.db", durable=True, size=1 << 30) as spool:
        lane = Lane("events", spool)
        keys = PseudonymKeys(folder / "pseudonyms")
        publisher = Publisher(
            lambda _: file,
            lane,
            age=timedelta(1),
            clock=lambda: datetime.now(UTC),
            pseudonym=keys.pseudonym,
        )
        server = rpc.server()
        servicer = SiteServicer(publisher, site_pb2.SiteStatus)
        site_pb2_grpc.add_SiteServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        (http_port,) = free_ports(1)
        models = cast(OpenInference, None)  # nobody asks for one
        over_http = asyncio.create_task(http.serve(models, publisher, "127.0.0.1", http_port))
        gc.freeze()  # as a site does
        print(port, http_port, flush=True)
        await over_http


async def kept(folder: Path) -> float:
    """Events a second of the spool alone."""
    with Spool(folder / "alone.db", durable=True, size=1 << 30) as spool:
        lane = Lane("events", spool)
        record = [Record("bench", "events", "p", json.dumps(plain(0)).encode())]
        return await rate(lambda: lane.keep(record))


# -- drain ---------------------------------------------------------------------------------------------


@contextmanager
def hub(kafka: KafkaSettings, folder: Path) -> Iterator[int]:
    """A hub that forwards; its port."""
    (port,) = free_ports(1)
    where = [str(folder), kafka.bootstrap_servers, kafka.topic_prefix, str(port)]
    process = subprocess.Popen([sys.executable, HUB, *where])
    try:
        yield port
    finally:
        process.kill()
        process.wait()


async def drained(kafka: KafkaSettings, folder: Path, spooled: Sequence[bytes]) -> float:
    """Events a second from a full spool into the topics."""
    with hub(kafka, folder) as port, Spool(folder / "full.db", durable=True, size=1 << 30) as spool:
        for first in range(0, len(spooled), RECORDS):
            spool.append([Record(NAME, SOURCE, "", one) for one in spooled[first : first + RECORDS]])
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            reached = Hub(channel)
            reached.incarnation = 1
            # Whole batches: for a last one of fewer records a lane waits half a second, lest more come.
            forwards = asyncio.create_task(Forwarder(Lane("events", spool), reached).run())
            await until_async(lambda: spool.reached, what="the hub forwards")
            began, start = time.perf_counter(), spool.reached
            await until_async(lambda: not spool.waiting, within=600, what="all is forwarded")
            took = time.perf_counter() - began
            forwards.cancel()
            return (spool.reached - start) / took


def produced(kafka: KafkaSettings, topic: str, spooled: Sequence[bytes]) -> float:
    """Events a second of one transactional producer, in batches as a site sends them."""
    producer = Producer(
        kafka.client(
            transactional_id="bench",
            partitioner="murmur2_random",
            compression_type="lz4",
            linger_ms=0,
            retry_backoff_ms=1,
            queue_buffering_max_messages=100_000,
        )
    )
    producer.init_transactions(30)
    began = time.perf_counter()
    for first in range(0, len(spooled), RECORDS):
        producer.begin_transaction()
        for one in spooled[first : first + RECORDS]:
            producer.produce(kafka.topic(topic), one, one[20:40])
        producer.commit_transaction(30)
    return len(spooled) / (time.perf_counter() - began)


def drain(folder: Path, count: int) -> dict[str, float]:
    spooled = events(count)
    with EmbeddedKafka() as broker:
        kafka = broker.settings("bench-")
        ensure_topics(kafka, [*pipeline_topics(pipeline()), *SHARED])
        topic = f"{NAME}.{SOURCE}.events.v1"
        produced(kafka, topic, spooled[:2000])
        before = produced(kafka, topic, spooled)
        rate = asyncio.run(drained(kafka, folder, spooled))
        return {"drained": rate, "produced": (before + produced(kafka, topic, spooled)) / 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000, help=f"A multiple of {RECORDS}.")
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    if said.serve:
        uvloop.run(serve(said.serve))  # as a site does
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            "published_1": asyncio.run(published(1, folder)),
            "published_10": asyncio.run(published(10, folder)),
            "posted": asyncio.run(posted(folder)),
            "kept": asyncio.run(kept(folder)),
            **drain(folder, said.events),
        }
    found["share"] = found["drained"] / found["produced"]
    lines = (f"{key:13} {value:10,.2f}" for key, value in found.items())
    print(json.dumps(found) if said.json else "\n".join(lines))


if __name__ == "__main__":
    main()
