"""A lane reaches the hub whole, in order and once, whatever the wire and the hub do."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from penstock.contracts.errors import Denied, Refused, Unavailable
from penstock.edge_gateway.v1 import hub_pb2, hub_pb2_grpc
from penstock.runtime import rpc
from penstock.testing.wait import until_async
from penstock.testing.wire import Wire
from penstock_edge_gateway.site import forwarder, greeting, hub
from penstock_edge_gateway.site.forwarder import Forwarder
from penstock_edge_gateway.site.hub import Hub
from penstock_edge_gateway.site.lane import Lane
from penstock_edge_gateway.site.spool import Record, Spool
from penstock_edge_gateway.site.spool_file import Full
from penstock_edge_gateway.standby import STANDBY


class Topics(hub_pb2_grpc.HubServiceServicer):
    """A hub that keeps what it is given in a list, with the position, as the real one does in Kafka."""

    def __init__(self) -> None:
        self.written: list[bytes | int] = []  # bodies, lengths of gaps
        self.positions: dict[str, hub_pb2.Position] = {}
        self.incarnation = 0
        self.after_write: Callable[[], None] = lambda: None
        self.raises: Exception | None = None
        self.clock: datetime | None = None  # the site's, as it told last
        self.waits = asyncio.Event()  # until it is set, the first batch waits
        self.waits.set()
        self.late = asyncio.Event()  # until it is set, the first batch's answer waits
        self.late.set()
        self.refuses: list[int] | None = None  # those that asked to count again, while none may
        self.early = 0  # batches of which nothing was taken: the one before had not come

    async def Hello(self, request: hub_pb2.HelloRequest, context: Any) -> hub_pb2.HelloResponse:
        if self.refuses is not None:
            self.refuses.append(request.superseded)
            raise Refused("its copy calls")
        self.incarnation += 1
        self.clock = request.clock.ToDatetime(UTC)
        return hub_pb2.HelloResponse(incarnation=self.incarnation, positions=self.positions)

    async def FetchPackage(
        self, request: hub_pb2.FetchPackageRequest, context: Any
    ) -> hub_pb2.FetchPackageResponse:
        return hub_pb2.FetchPackageResponse(size=7)

    async def Forward(self, request: hub_pb2.ForwardRequest, context: Any) -> hub_pb2.ForwardResponse:
        if self.raises:
            raise self.raises
        if request.incarnation < self.incarnation:
            raise Refused("another start of this site forwards")
        if request.first == 1:
            await self.waits.wait()
        known = self.positions.get(request.lane)
        reached = known.sequence if known and known.epoch == request.epoch else 0
        if request.first <= reached + 1:
            at = request.first - 1
            for one in request.records:
                at += one.gap.records or 1
                if at > reached:
                    self.written.append(one.gap.records or one.event.event or one.prediction)
            if at > reached:
                reached = at
                self.positions[request.lane] = hub_pb2.Position(epoch=request.epoch, sequence=reached)
                self.after_write()
        else:
            self.early += 1
        if request.first == 1:
            await self.late.wait()
        return hub_pb2.ForwardResponse(reached=reached)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "LONGEST_S", 0.05)
    monkeypatch.setattr(forwarder, "LONGEST_S", 0.05)
    monkeypatch.setattr(forwarder, "ANSWER_S", 1.0)
    monkeypatch.setattr(forwarder, "RECORDS", 20)
    monkeypatch.setattr(forwarder, "GATHER_S", 0.01)


@pytest.fixture
def topics() -> Topics:
    return Topics()


@pytest.fixture
async def wire(topics: Topics) -> AsyncIterator[Wire]:
    server = rpc.server()
    hub_pb2_grpc.add_HubServiceServicer_to_server(topics, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with Wire(to=port) as wire:
        yield wire
    await server.stop(None)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "events.db", durable=False, size=8 << 20) as spool:
        yield spool


@contextlib.asynccontextmanager
async def forwarding(
    spool: Spool, wire: Wire, rate: float = math.inf
) -> AsyncIterator[tuple[Lane, Forwarder, Hub]]:
    """A site's start, to its end."""
    channel = grpc.aio.insecure_channel(
        wire.address, options=[("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 1000)]
    )
    reached, lane = Hub(channel), Lane("events", spool)
    await reached.hello(lambda: datetime.now(UTC))
    forwards = Forwarder(lane, reached, rate)
    task = asyncio.create_task(forwards.run())
    try:
        yield lane, forwards, reached
    finally:
        task.cancel()
        await asyncio.wait([task])
        await channel.close()


def events(first: int, count: int) -> list[Record]:
    return [Record("loans", "applications", f"p{n}", b'{"n": %d}' % n) for n in range(first, first + count)]


def bodies(count: int) -> list[bytes]:
    return [b'{"n": %d}' % n for n in range(count)]


async def empty(spool: Spool) -> None:
    await until_async(lambda: spool.depth().records == 0, what="all is forwarded")


async def test_what_is_kept_arrives_in_order_and_leaves_the_disk(
    topics: Topics, spool: Spool, wire: Wire
) -> None:
    spool.append(events(0, 50))
    async with forwarding(spool, wire) as (lane, _, _):
        await empty(spool)
        await lane.keep(events(50, 5))  # while it waits for some
        await empty(spool)
    assert topics.written == bodies(55)


async def test_the_next_batch_is_under_way_while_one_is_and_comes_again_where_it_came_too_early(
    topics: Topics, spool: Spool, wire: Wire
) -> None:
    topics.waits.clear()
    spool.append(events(0, 100))
    async with forwarding(spool, wire) as (lane, _, _):
        await until_async(lambda: topics.early, what="a batch comes before the one that it follows")
        spool.erase("loans", "p45")
        topics.waits.set()
        await empty(spool)
        assert lane.refused is None
    assert topics.written == [*bodies(45), 1, *bodies(100)[46:]]


async def test_an_answer_that_later_ones_overtake_is_no_loss_of_the_hub_s(
    topics: Topics, spool: Spool, wire: Wire
) -> None:
    topics.late.clear()
    spool.append(events(0, 60))
    epoch = spool.epoch
    async with forwarding(spool, wire) as (lane, _, _):
        await empty(spool)
        topics.late.set()
        await until_async(lambda: not lane._batches, what="the first answer is there, too")
        await lane.keep(events(60, 5))
        await empty(spool)
    assert spool.epoch == epoch
    assert topics.written == bodies(65)


async def test_a_wire_that_breaks_again_and_again_loses_and_doubles_nothing(
    topics: Topics, spool: Spool, wire: Wire
) -> None:
    topics.after_write = lambda: wire.cut_after(40)  # most often before the answer is through
    async with forwarding(spool, wire) as (lane, _, _):
        for first in range(0, 200, 20):
            await lane.keep(events(first, 20))
        await empty(spool)
    assert wire.connections > 3
    assert topics.written == bodies(200)


async def test_an_answer_that_never_comes_is_asked_for_again(
    topics: Topics, spool: Spool, wire: Wire
) -> None:
    async with forwarding(spool, wire) as (lane, _, reached):
        topics.after_write = wire.hang
        await lane.keep(events(0, 3))
        await until_async(lambda: reached.why, what="the hub is found to be away")
        topics.after_write = lambda: None
        wire.mend()
        await empty(spool)
        assert reached.why == ""
    assert topics.written == bodies(3)


async def test_a_new_start_goes_on_from_the_hubs_position(topics: Topics, spool: Spool, wire: Wire) -> None:
    spool.append(events(0, 30))
    topics.positions["events"] = hub_pb2.Position(epoch=spool.epoch, sequence=12)
    async with forwarding(spool, wire):
        await empty(spool)
    assert topics.written == bodies(30)[12:]


async def test_a_hub_that_lost_its_positions_gets_the_rest(topics: Topics, spool: Spool, wire: Wire) -> None:
    spool.append(events(0, 30))
    spool.acknowledge(10)
    async with forwarding(spool, wire) as (lane, _, _):
        await empty(spool)
        topics.positions.clear()
        await lane.keep(events(30, 5))
        await empty(spool)
    assert topics.written == [*bodies(30)[10:], *bodies(35)[30:]]


async def test_a_site_tells_the_time_at_which_it_was_heard(topics: Topics, wire: Wire) -> None:
    started, told = datetime(2026, 3, 1, tzinfo=UTC), [0]

    def clock() -> datetime:
        told[0] += 1
        return started + timedelta(hours=told[0])

    wire.cut()
    async with grpc.aio.insecure_channel(
        wire.address, options=[("grpc.min_reconnect_backoff_ms", 50)]
    ) as channel:
        reached = Hub(channel)
        greets = asyncio.create_task(reached.hello(clock))
        await until_async(lambda: told[0] > 2)
        wire.mend()
        await greets
    assert topics.clock == started + timedelta(hours=told[0])


async def test_gaps_are_forwarded_in_their_place(topics: Topics, spool: Spool, wire: Wire) -> None:
    spool.append(events(0, 5))
    spool.drop(2)
    spool.erase("loans", "p3")
    async with forwarding(spool, wire):
        await empty(spool)
    assert topics.written == [2, bodies(5)[2], 1, bodies(5)[4]]


async def test_a_disk_that_is_too_full_to_delete_sends_nothing_that_the_hub_would_write_again(
    topics: Topics, spool: Spool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(change: Callable[[], object]) -> object:
        raise Full

    spool.append(events(0, 30))
    async with forwarding(spool, wire) as (lane, _, _):
        with monkeypatch.context() as patch:
            patch.setattr(spool._file, "freeing", full)
            await until_async(lambda: lane.refused, what="nothing can be deleted")
            assert lane.refused == "the disk is full, and what the hub has cannot be deleted"
            assert (spool.reached, spool.depth().records) == (0, 30)
        await empty(spool)
    assert topics.written == bodies(30)


async def test_a_cloned_disk_stops_the_older_start(
    topics: Topics, spool: Spool, tmp_path: Path, wire: Wire
) -> None:
    async with forwarding(spool, wire) as (older, _, _):
        with Spool(tmp_path / "clone.db", durable=False, size=1 << 20) as clone:
            async with forwarding(clone, wire):
                await older.keep(events(0, 4))
                await until_async(lambda: older.refused, what="the older start is refused")
    assert older.refused == "another start of this site forwards"
    assert topics.written == []
    assert spool.depth().records == 4


async def test_a_superseded_start_forwards_again_once_the_copy_of_its_disk_is_silent(
    topics: Topics, spool: Spool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting, "REFUSED_S", 0.02)
    asked: list[int] = []

    async def watch() -> None:
        await asyncio.Event().wait()

    async with grpc.aio.insecure_channel(wire.address) as channel:
        reached, lane = Hub(channel), Lane("events", spool)
        running = asyncio.create_task(greeting.with_hub(reached, watch, [Forwarder(lane, reached)]))
        await until_async(lambda: reached.incarnation == 1)
        topics.incarnation, topics.refuses = 2, asked  # the copy has started, and forwards
        topics.positions["events"] = hub_pb2.Position(epoch=spool.epoch, sequence=3)
        await lane.keep(events(0, 4))
        await until_async(lambda: len(asked) > 2, what="it asks to count again")
        assert (set(asked), topics.written, spool.depth().records) == ({1}, [], 4)
        topics.refuses = None
        await empty(spool)
        running.cancel()
    assert topics.written == bodies(4), "and not what the copy left of them"


async def test_a_hub_that_stands_by_is_followed_by_the_one_that_forwards(
    topics: Topics, spool: Spool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LONGEST_S", 60.0)
    stands_by = Unavailable("this hub does not forward: replica 1 does", where=STANDBY)
    turns = iter([stands_by] * 5)
    monkeypatch.setattr(
        Topics, "raises", property(lambda _: next(turns, None), lambda *_: None), raising=False
    )
    spool.append(events(0, 3))
    async with forwarding(spool, wire):
        async with asyncio.timeout(10):
            await empty(spool)
    assert topics.written == bodies(3)


async def test_what_the_hub_refuses_waits(topics: Topics, spool: Spool, wire: Wire) -> None:
    topics.raises = Denied("branch-1 was revoked")
    spool.append(events(0, 3))
    async with forwarding(spool, wire) as (lane, _, _):
        await until_async(lambda: lane.refused, what="it is refused")
        topics.raises = None
        await lane.keep(events(3, 1))
        await empty(spool)
        assert lane.refused is None
    assert topics.written == bodies(4)


async def test_a_lane_that_the_hub_has_wait_holds_up_nothing_else(
    topics: Topics, spool: Spool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked() -> hub_pb2.FetchPackageRequest:
        return hub_pb2.FetchPackageRequest()

    topics.raises = Unavailable("there is no topic yet")
    spool.append(events(0, 3))
    async with forwarding(spool, wire) as (lane, _, reached):
        await until_async(lambda: lane.refused, what="the hub has it wait")
        assert (lane.refused, reached.why) == ("there is no topic yet", "")
        topics.raises = None
        await empty(spool)
        assert lane.refused is None
        monkeypatch.setattr(hub, "_FIRST_S", 60.0)
        monkeypatch.setattr(hub, "LONGEST_S", 60.0)
        topics.raises = Unavailable("there is no topic yet")
        await lane.keep(events(3, 1))
        await until_async(lambda: lane.refused, what="the hub has it wait for long")
        fetch = reached.call(reached.stub.FetchPackage, asked, within=10)
        assert (await asyncio.wait_for(fetch, 10)).size == 7


async def test_a_line_is_used_as_far_as_allowed(topics: Topics, spool: Spool, wire: Wire) -> None:
    spool.append([Record("loans", "applications", "p", b'{"note": "%s"}' % (b"x" * 500))] * 100)
    began = time.monotonic()
    async with forwarding(spool, wire, rate=100_000):
        await empty(spool)
    assert time.monotonic() - began > 0.4  # four batches of 10 kB, and one that nothing follows


async def test_batches_travel_compressed(topics: Topics, spool: Spool, wire: Wire) -> None:
    spool.append([Record("loans", "applications", "p", b'{"note": "%s"}' % (b"same " * 2000))] * 10)
    async with forwarding(spool, wire):
        await empty(spool)
    assert sum(len(one) for one in topics.written if isinstance(one, bytes)) > 100_000
    assert wire.up < 10_000


@pytest.mark.slow
async def test_an_hour_without_the_line_costs_some_tries_a_line_of_log_and_nothing_that_was_kept(
    topics: Topics, spool: Spool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour in a minute: an event a second, back-offs a sixtieth as long."""
    monkeypatch.setattr(hub, "LONGEST_S", 1.0)
    monkeypatch.setattr(hub, "_FIRST_S", 0.5 / 60)
    async with forwarding(spool, wire) as (lane, _, reached):
        await lane.keep(events(0, 1))
        await empty(spool)
        tries, tasks = wire.connections, len(asyncio.all_tasks())
        with capture_logs() as logs:
            wire.cut()
            for number in range(1, 3601):
                await lane.keep(events(number, 1))
                await asyncio.sleep(1 / 60)  # the pace of events
            assert reached.why
            assert spool.waiting == 3600
            assert len(asyncio.all_tasks()) <= tasks + forwarder.AT_ONCE  # batches, and none a record
            wire.mend()
            mended = time.monotonic()
            await empty(spool)
        assert time.monotonic() - mended < 30
        assert wire.connections - tries < 200
    assert Counter(one["event"] for one in logs) == {"hub_away": 1, "hub_answers": 1}
    assert topics.written == bodies(3601)
