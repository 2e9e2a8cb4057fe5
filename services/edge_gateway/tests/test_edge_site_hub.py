"""The site's way to its hub, over TLS as the door speaks it: what is wrong with it is found, and named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.runtime import rpc
from penstock.testing.wait import until_async
from penstock.testing.wire import Wire
from penstock_edge_gateway import certificates
from penstock_edge_gateway.site import introduction
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.identity import SiteIdentity


class Quiet(hub_pb2_grpc.HubServiceServicer):
    """A hub that has no news for a site, ever."""

    def __init__(self) -> None:
        self.watched = 0

    async def Watch(self, request: hub_pb2.WatchRequest, context: Any) -> hub_pb2.WatchResponse:
        self.watched += 1
        await asyncio.Event().wait()
        raise AssertionError


@dataclass
class Door:
    hub: Quiet
    wire: Wire
    site: SiteIdentity  # which reaches the hub over the wire


@asynccontextmanager
async def door(made: datetime) -> AsyncIterator[Door]:
    """A door whose certificate was made at that time."""
    authority = certificates.new_authority(made)
    own, key = certificates.door_identity(authority, made), certificates.new_key()
    certificate = certificates.pem(
        certificates.site_certificate(authority, "branch-1", key.public_key(), made)
    )
    pair = own.key_pem.encode(), own.certificate_pem.encode()
    credentials = grpc.ssl_server_credentials([pair], authority.certificate_pem.encode(), True)
    server, hub = rpc.server(), Quiet()
    hub_pb2_grpc.add_HubServiceServicer_to_server(hub, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    with Wire(to=port) as wire:
        pems = authority.certificate_pem, certificate, certificates.key_pem(key)
        yield Door(hub, wire, SiteIdentity("branch-1", wire.address, *pems))
    await server.stop(0)


async def test_a_certificate_that_the_clock_does_not_let_hold_is_a_matter_of_both_clocks() -> None:
    async with door(datetime.now(UTC) - timedelta(days=100)) as there, there.site.channel() as channel:
        theirs = datetime.now(UTC) - timedelta(days=90)
        hub = Hub(channel, lambda: introduction.apart(theirs, datetime.now(UTC)))
        watches = asyncio.create_task(hub.call(hub.stub.Watch, hub_pb2.WatchRequest, within=10))
        await until_async(lambda: hub.why.startswith("this machine's clock says"))
        assert f"the hub's {theirs:%Y-%m-%d}" in hub.why
        watches.cancel()


@pytest.mark.slow
async def test_a_line_that_is_dead_without_a_word_is_noticed_within_90_s() -> None:
    async with door(datetime.now(UTC)) as there, there.site.channel() as channel:
        hub = Hub(channel)
        watches = asyncio.create_task(hub.call(hub.stub.Watch, hub_pb2.WatchRequest, within=300))
        await until_async(lambda: there.hub.watched)
        there.wire.hang()
        began = time.monotonic()
        await until_async(lambda: "not called" not in hub.why, within=100)
        assert 60 < time.monotonic() - began < 90
        there.wire.mend()
        await until_async(lambda: there.hub.watched == 2)
        watches.cancel()


@pytest.mark.slow
async def test_a_line_that_breaks_every_second_costs_less_than_a_megabyte_an_hour() -> None:
    async with door(datetime.now(UTC)) as there, there.site.channel() as channel:
        hub, wire = Hub(channel), there.wire
        calls = [
            asyncio.create_task(hub.call(hub.stub.Watch, hub_pb2.WatchRequest, within=300)) for _ in range(3)
        ]
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
