"""A site's line: traffic of an idle day, what a slow site costs Envoy, and how soon a silent cut is
noticed.

    python benchmarks/edge_wire.py [--watches 3] [--json]

Site and Envoy are real, the hub behind them has no news. Traffic is counted by a proxy between two
watches, at their real cadence, 200 s each, and stands for the day: TLS as it goes by, TCP and IP by
52 bytes a segment and 52 for its acknowledgement. Takes eleven minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from edge_disk import grant

from penstock.edge_gateway.v1 import hub_pb2 as pb
from penstock.edge_gateway.v1 import hub_pb2_grpc
from penstock.packages import trust_updates
from penstock.runtime import rpc
from penstock.runtime.settings import KafkaSettings
from penstock.stack import envoy
from penstock.testing import packages
from penstock.testing.broker import free_ports
from penstock.testing.promoting import Registry
from penstock.testing.site import SiteUnderTest
from penstock.testing.wait import until_async
from penstock.testing.wire import Wire
from penstock_edge_gateway import certificates
from penstock_edge_gateway.hub.authority import Authority
from penstock_edge_gateway.hub.hub_servicer import ANSWER_S, WATCH_S
from penstock_edge_gateway.site.fetching import ARCHIVE, RANGE_BYTES
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import SiteIdentity
from penstock_edge_gateway.site.introduction import look
from penstock_edge_gateway.site.trust import SiteTrust
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import prepare
from penstock_inference.door.sites import HUB, SiteListener

HEADER_BYTES: Final = 52  # of IPv4 and TCP with timestamps
SETTLE_S: Final = 5.0  # behind a watch
SLOW_SITES: Final = 20
SLOW_BYTES_S: Final = 30_000
SLOW_S: Final = 30.0
DAY_S: Final = 86_400.0


class NoNews(hub_pb2_grpc.HubServiceServicer):
    """A hub as a site sees it that knows everything; its packages are of any size."""

    def __init__(self) -> None:
        self.watched: Counter[str] = Counter()  # calls, by the site's name as it says

    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloResponse:  # noqa: N802
        answer = pb.HelloResponse(incarnation=1)
        answer.clock.FromDatetime(datetime.now(UTC))
        return answer

    async def Watch(self, request: pb.WatchRequest, context: Any) -> pb.WatchResponse:  # noqa: N802
        self.watched[request.status.site] += 1
        await asyncio.sleep(min(WATCH_S, context.time_remaining() - ANSWER_S))
        return pb.WatchResponse()

    async def FetchPackage(self, request: pb.FetchPackageRequest, context: Any) -> pb.FetchPackageResponse:  # noqa: N802
        return pb.FetchPackageResponse(data=bytes(request.length), size=1 << 40)


@dataclass
class Running:
    hub: NoNews
    authority: Authority
    listener: SiteListener
    envoy: psutil.Process

    @property
    def port(self) -> int:
        return int(self.listener.listen.rpartition(":")[2])

    @property
    def resident_mb(self) -> float:
        return float(self.envoy.memory_info().rss) / 1e6

    def identity(self, wire: Wire) -> SiteIdentity:
        key = certificates.new_key()
        certified = self.authority.certify("bench", certificates.request_of(key), datetime.now(UTC))
        pems = self.authority.identity.certificate_pem, certificates.pem(certified), certificates.key_pem(key)
        return SiteIdentity("bench", wire.address, *pems)


@asynccontextmanager
async def door(folder: Path) -> AsyncIterator[Running]:
    """Envoy as it stands before the hub."""
    listen, admin, sites, behind = (f"127.0.0.1:{port}" for port in free_ports(4))
    front = Door(folder / "envoy", listen, admin, Backends(*["127.0.0.1:1"] * 3), {HUB: behind})
    prepare(front)
    authority = Authority.open(folder / "hub", datetime.now(UTC))
    listener = SiteListener(sites, front.folder, folder / "sites" / "door.json")
    authority.hand_over(listener.handed, datetime.now(UTC))
    listener.write()
    hub, server = NoNews(), rpc.server()
    hub_pb2_grpc.add_HubServiceServicer_to_server(hub, server)
    server.add_insecure_port(behind)
    await server.start()
    process = await asyncio.create_subprocess_exec(
        *map(str, envoy.command(front.folder)), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until_async(lambda: look(sites), despite=Exception, what="the door listens")
        yield Running(hub, authority, listener, psutil.Process(process.pid))
    finally:
        process.kill()
        await process.wait()
        await server.stop(None)


async def slow_sites(running: Running) -> dict[str, float]:
    """Envoy's memory, with sites that wait and with as many that fetch a package over a slow line."""
    before = running.resident_mb
    async with AsyncExitStack() as stack:
        wires = [stack.enter_context(Wire(to=running.port)) for _ in range(SLOW_SITES)]
        channels = [await stack.enter_async_context(running.identity(wire).channel()) for wire in wires]
        hubs = [Hub(channel) for channel in channels]
        for hub in hubs:
            await hub.hello()
        connected = running.resident_mb
        for wire in wires:
            wire.rate = SLOW_BYTES_S
        fetches = [asyncio.create_task(fetch(hub)) for hub in hubs]
        most, end = connected, time.monotonic() + SLOW_S
        while time.monotonic() < end:
            most = max(most, running.resident_mb)
            await asyncio.sleep(0.2)
        for task in fetches:
            task.cancel()
    return {
        "slow_site_mb": (most - before) / SLOW_SITES,
        "waiting_site_mb": (connected - before) / SLOW_SITES,
    }


async def fetch(hub: Hub) -> None:
    """Ranges as a site asks for them, without an end."""

    async def asked() -> pb.FetchPackageRequest:
        return pb.FetchPackageRequest(digest="sha256:", part=ARCHIVE, length=RANGE_BYTES)

    while True:
        await hub.call(hub.stub.FetchPackage, asked, within=240)


async def cut_off() -> pb.WatchRequest:
    request = pb.WatchRequest()
    request.status.site = "cut off"
    return request


async def silent_cut(running: Running) -> dict[str, float]:
    """Seconds until a site that waits for news knows that nothing comes through any more."""
    with Wire(to=running.port) as wire:
        async with running.identity(wire).channel() as channel:
            hub = Hub(channel)
            await hub.hello()
            watches = asyncio.create_task(hub.call(hub.stub.Watch, cut_off, within=300))
            await until_async(lambda: running.hub.watched["cut off"])
            wire.hang()
            began = time.perf_counter()
            await until_async(lambda: hub.why, within=300)
            took = time.perf_counter() - began
            watches.cancel()
    return {"cut_noticed_s": took}


async def idle_day(running: Running, home: Path, watches: int) -> dict[str, float]:
    """Bytes of a day in which nothing happens, of a site that serves a model."""
    registry = Registry.at(home, KafkaSettings())
    keys = registry.keys
    await grant(home, registry, packages.applied(keys), registry.version())
    trust = trust_updates.appended((), keys.trust().keys, keys.signer("registry"))
    SiteTrust(home).begin(trust_updates.written(trust))
    with Wire(to=running.port) as wire, SiteUnderTest(home) as site:
        running.identity(wire).save(home)
        site.start()
        await until_async(lambda: running.hub.watched["bench"])
        first = running.hub.watched["bench"]
        await asyncio.sleep(SETTLE_S)
        began, sent, segments = time.perf_counter(), wire.up + wire.down, wire.segments
        await until_async(lambda: running.hub.watched["bench"] >= first + watches, within=300 * watches)
        await asyncio.sleep(SETTLE_S)
        took = time.perf_counter() - began
        sent, segments = wire.up + wire.down - sent, wire.segments - segments
    return {
        "idle_day_kib": (sent + 2 * HEADER_BYTES * segments) / took * DAY_S / 1024,
        "idle_day_tls_kib": sent / took * DAY_S / 1024,
        "counted_s": took,
        "connections": wire.connections,
    }


async def measure(folder: Path, watches: int) -> dict[str, float]:
    async with door(folder) as running:
        slow = await slow_sites(running)
        cut, day = await asyncio.gather(silent_cut(running), idle_day(running, folder / "site", watches))
    return {**slow, **cut, **day}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--watches", type=int, default=3, help="to count between the first and the last of")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(measure(Path(name), said.watches))
    print(json.dumps(found) if said.json else "\n".join(f"{key:18} {of:9.2f}" for key, of in found.items()))


if __name__ == "__main__":
    main()
