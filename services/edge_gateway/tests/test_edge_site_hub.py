"""The site's way to its hub, over TLS as the door speaks it: what is wrong with it is found, and named."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import beyond_the_line
import grpc
import pytest

from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.packages.keys import Keys
from penstock.runtime import rpc
from penstock.runtime.artifacts import Artifacts
from penstock.testing import packages
from penstock.testing.namespace import line_or_skip
from penstock.testing.wait import until_async
from penstock.testing.wire import Wire
from penstock_edge_gateway import certificates
from penstock_edge_gateway.hub.forward.lanes import Position, batch_of, rest_of
from penstock_edge_gateway.site import hub as way
from penstock_edge_gateway.site import introduction
from penstock_edge_gateway.site.fetching import RANGE_BYTES
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import SiteIdentity

FAST = 30  # times as fast as life
GRPC_WAITS = {"initial": 1000, "max": 60_000}  # for a connection, by itself


class Quiet(hub_pb2_grpc.HubServiceServicer):
    """A hub that has no news for a site, ever."""

    def __init__(self) -> None:
        self.watched = 0

    async def Watch(self, request: hub_pb2.WatchRequest, context: Any) -> hub_pb2.WatchResponse:
        self.watched += 1
        await asyncio.Event().wait()
        raise AssertionError


class Taking(Quiet):
    """A hub that writes to a list what it is given, with the position, and hands out a package. The third
    batch and the third range are answered into a line that was cut meanwhile.
    """

    def __init__(self, package: bytes) -> None:
        super().__init__()
        self.package = package
        self.written: list[int] = []
        self.batches = self.ranges = 0
        self.line_is_cut = asyncio.Event()
        self._position: Position | None = None

    async def Hello(self, request: hub_pb2.HelloRequest, context: Any) -> hub_pb2.HelloResponse:
        return hub_pb2.HelloResponse(incarnation=1)

    async def Forward(self, request: hub_pb2.ForwardRequest, context: Any) -> hub_pb2.ForwardResponse:
        self.batches += 1
        if self.batches == 3:
            await self.line_is_cut.wait()
        rest = rest_of(batch_of("branch-1", request), self._position)
        self.written += [int(record.event.event) for _, record in rest.records]
        self._position = rest.position
        return hub_pb2.ForwardResponse(reached=rest.position.sequence)

    async def FetchPackage(
        self, request: hub_pb2.FetchPackageRequest, context: Any
    ) -> hub_pb2.FetchPackageResponse:
        self.ranges += 1
        if self.ranges == 3:
            await self.line_is_cut.wait()
        end = request.offset + request.length
        return hub_pb2.FetchPackageResponse(data=self.package[request.offset : end], size=len(self.package))


@dataclass
class Door:
    hub: Quiet
    wire: Wire
    site: SiteIdentity  # which reaches the hub over the wire
    port: int


@asynccontextmanager
async def door(made: datetime, host: str = "127.0.0.1", hub: Quiet | None = None) -> AsyncIterator[Door]:
    """A door whose certificate was made at that time."""
    hub = hub or Quiet()
    authority = certificates.new_authority(made)
    own, key = certificates.door_identity(authority, made), certificates.new_key()
    certificate = certificates.pem(
        certificates.site_certificate(authority, "branch-1", key.public_key(), made)
    )
    pair = own.key_pem.encode(), own.certificate_pem.encode()
    credentials = grpc.ssl_server_credentials([pair], authority.certificate_pem.encode(), True)
    server = rpc.server()
    hub_pb2_grpc.add_HubServiceServicer_to_server(hub, server)
    port = server.add_secure_port(f"{host}:0", credentials)
    await server.start()
    with Wire(to=port, host=host) as wire:
        pems = authority.certificate_pem, certificate, certificates.key_pem(key)
        yield Door(hub, wire, SiteIdentity("branch-1", wire.address, *pems), port)
    await server.stop(0)


async def asked() -> hub_pb2.WatchRequest:
    return hub_pb2.WatchRequest()


async def test_a_certificate_that_the_clock_does_not_let_hold_is_a_matter_of_both_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub is asked for its time once, however many calls fail together: that costs a connection."""
    monkeypatch.setattr(way, "_FIRST_S", 60.0)
    looks: list[datetime] = []

    def wrong_clock() -> str | None:
        looks.append(theirs)
        return introduction.apart(theirs, datetime.now(UTC))

    async with door(datetime.now(UTC) - timedelta(days=100)) as there, there.site.channel() as channel:
        theirs = datetime.now(UTC) - timedelta(days=90)
        hub = Hub(channel, wrong_clock)
        calls = [asyncio.create_task(hub.call(hub.stub.Watch, asked, within=10)) for _ in range(3)]
        await until_async(lambda: hub.why.startswith("this machine's clock says"))
        assert f"the hub's {theirs:%Y-%m-%d}" in hub.why
        await asyncio.wait(calls, timeout=0.5)  # for those that fail a moment later
        assert looks == [theirs]
        for call in calls:
            call.cancel()


async def test_who_waits_for_the_next_try_goes_on_when_another_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(way, "_FIRST_S", 600.0)
    hub = Hub(grpc.aio.insecure_channel("127.0.0.1:1"))  # of which nothing is asked here
    failed, answered = asyncio.Event(), asyncio.Event()

    async def request() -> None: ...

    async def fails_once(_: None, **__: object) -> str:
        if failed.is_set():
            return "later"
        failed.set()
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "it has gone")

    async def holds(_: None, **__: object) -> str:
        await answered.wait()
        return "at last"

    held = asyncio.create_task(hub.call(holds, request, within=20))
    waits = asyncio.create_task(hub.call(fails_once, request, within=20))
    await until_async(lambda: hub.why == "it has gone", what="the hub is away")
    answered.set()
    assert await asyncio.wait_for(asyncio.gather(held, waits), 20) == ["at last", "later"]
    assert await asyncio.wait_for(hub.call(holds, request, within=20), 20) == "at last"


@pytest.mark.slow
async def test_a_line_that_is_dead_without_a_word_is_noticed_within_90_s() -> None:
    async with door(datetime.now(UTC)) as there, there.site.channel() as channel:
        hub = Hub(channel)
        watches = asyncio.create_task(hub.call(hub.stub.Watch, asked, within=300))
        await until_async(lambda: there.hub.watched)
        there.wire.hang()
        began = time.monotonic()
        await until_async(lambda: "not called" not in hub.why, within=100)
        assert 60 < time.monotonic() - began < 90
        there.wire.mend()
        await until_async(lambda: there.hub.watched == 2)
        watches.cancel()


async def test_a_line_that_flaps_costs_less_than_a_megabyte_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three minutes in six seconds; the later ones stand for the rest of the hour."""
    for name in ("_FIRST_S", "LONGEST_S", "_HOLDS_S"):
        monkeypatch.setattr(way, name, getattr(way, name) / FAST)
    faster = [(f"grpc.{which}_reconnect_backoff_ms", ms // FAST) for which, ms in GRPC_WAITS.items()]
    async with door(datetime.now(UTC)) as there, there.site.channel(*faster) as channel:
        hub, wire, sent = Hub(channel), there.wire, [0]
        calls = [asyncio.create_task(hub.call(hub.stub.Watch, asked, within=300)) for _ in range(3)]
        for _ in range(3):
            for _ in range(60):
                wire.cut()
                wire.mend()
                await asyncio.sleep(1 / FAST)  # a second of the line's
            sent.append(wire.up + wire.down)
        assert there.hub.watched > 3
        for call in calls:
            call.cancel()
    assert sent[3] + (sent[3] - sent[1]) / 2 * 57 < 1_000_000


@pytest.mark.slow
async def test_a_line_that_breaks_every_second_costs_less_than_a_megabyte_an_hour() -> None:
    async with door(datetime.now(UTC)) as there, there.site.channel() as channel:
        hub, wire = Hub(channel), there.wire
        calls = [asyncio.create_task(hub.call(hub.stub.Watch, asked, within=300)) for _ in range(3)]
        before, began = 0, time.monotonic()
        while (passed := time.monotonic() - began) < 240:
            if passed < 120:
                before = wire.up + wire.down
            wire.cut()
            wire.mend()
            await asyncio.sleep(1)  # as the line does
        assert there.hub.watched > 3
        assert 0 < wire.up + wire.down - before < 1_000_000 / 30
        for call in calls:
            call.cancel()


BEHIND_THE_LINE = """\
import asyncio, sys
from pathlib import Path
from penstock.edge_gateway.v1 import hub_pb2
from penstock.testing.namespace import line_or_skip
from penstock.testing.wait import until_async
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import SiteIdentity

async def asked():
    return hub_pb2.WatchRequest()

async def main():
    async with SiteIdentity.load(Path(sys.argv[1])).channel() as channel:
        hub = Hub(channel)
        call = asyncio.create_task(hub.call(hub.stub.Watch, asked, within=300))
        await until_async(lambda: "not called" not in hub.why, within=200)
        print(hub.why, flush=True)
        await call

asyncio.run(main())
"""


@pytest.mark.slow
async def test_packets_that_vanish_are_noticed_within_90_s_and_the_line_is_used_again(
    tmp_path: Path,
) -> None:
    """Packets are lost beneath TCP: nobody resets anything, on either side."""
    with line_or_skip() as line:
        async with door(datetime.now(UTC), line.here) as there:
            address = f"{line.here}:{there.port}"
            replace(there.site, hub=address).save(tmp_path)
            site = await asyncio.create_subprocess_exec(
                *line.beyond, sys.executable, "-c", BEHIND_THE_LINE, tmp_path, stdout=asyncio.subprocess.PIPE
            )
            assert site.stdout
            try:
                await until_async(lambda: there.hub.watched)
                line.cut()
                began = time.monotonic()
                said = await asyncio.wait_for(site.stdout.readline(), 100)
                assert time.monotonic() - began < 90, said
                line.mend()
                await until_async(lambda: there.hub.watched == 2)
            finally:
                site.kill()
                await site.wait()


@pytest.mark.slow
async def test_packets_that_vanish_in_mid_forward_and_in_mid_download_lose_and_double_nothing(
    tmp_path: Path,
) -> None:
    keys, records = Keys(tmp_path / "keys"), 8_000
    keys.ensure()
    package = random.Random(7).randbytes(5 * RANGE_BYTES)
    artifact = Artifacts(f"file://{tmp_path}/artifacts").put_bytes("package.tar", package)
    version = packages.version("sha256:" + "a" * 64, keys, artifact, artifact)
    (tmp_path / "version.json").write_text(version.model_dump_json())
    hub = Taking(package)
    with line_or_skip() as line:
        async with door(datetime.now(UTC), line.here, hub) as there:
            replace(there.site, hub=f"{line.here}:{there.port}").save(tmp_path)
            command = [*line.beyond, sys.executable, beyond_the_line.__file__, tmp_path, str(records)]
            site = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert site.stdout
            try:
                await until_async(lambda: hub.batches >= 3 and hub.ranges >= 3)
                line.cut()
                hub.line_is_cut.set()
                async with asyncio.timeout(100):
                    while beyond_the_line.AWAY not in (await site.stdout.readline()).decode():
                        pass
                line.mend()
                assert await asyncio.wait_for(site.wait(), 200) == 0
            finally:
                if site.returncode is None:
                    site.kill()
                    await site.wait()
    assert hub.written == [*range(records)]
    assert {file.read_bytes() for file in (tmp_path / "fetched").iterdir()} == {package}
    assert hub.ranges == 2 * 5 + 1  # of archive and signature, and the one that was answered in vain
