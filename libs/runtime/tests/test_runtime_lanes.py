"""Lanes by themselves: order within a key, none between keys."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from penstock.runtime.lanes import Lanes
from penstock.testing.wait import until_async as until


class Bench:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.changes: list[int] = []
        self.lanes: Lanes[str] = Lanes(lambda: self.changes.append(self.lanes.waiting))

    async def run(self, name: str, *, waits: bool = False, within_s: float = 0.01) -> None:
        self.gates[name] = asyncio.Event()
        if not waits:
            self.gates[name].set()
        await self.lanes.run(name[0], partial(self._work, name), asyncio.sleep(within_s))  # the lane's time

    async def _work(self, name: str) -> None:
        await self.gates[name].wait()
        self.done.append(name)


async def test_what_waits_holds_back_its_own_key_alone() -> None:
    bench = Bench()
    await bench.run("a1", waits=True)
    await bench.run("a2")
    await bench.run("b1")
    assert (bench.done, bench.lanes.waiting, bench.lanes.keys) == (["b1"], 2, ["a"])
    bench.gates["a1"].set()
    await bench.run("a3")
    await until(lambda: not bench.lanes.waiting)
    assert bench.done == ["b1", "a1", "a2", "a3"]
    assert (bench.lanes.waiting, bench.lanes.keys, bench.changes[-1]) == (0, [], 0)


async def test_what_fails_at_once_is_raised_and_what_is_cancelled_does_not_go_on() -> None:
    bench = Bench()

    async def fails() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await bench.lanes.run("a", fails, asyncio.sleep(1))  # the lane's time
    running = asyncio.create_task(bench.run("b1", waits=True, within_s=60))
    await asyncio.sleep(0)  # one turn of the loop
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bench.run("c1", waits=True)
    await bench.run("c2")
    await bench.lanes.close(0.01)
    for gate in bench.gates.values():
        gate.set()
    await asyncio.sleep(0)  # one turn of the loop
    assert (bench.done, bench.lanes.keys) == ([], [])


async def test_what_ends_in_time_is_finished_at_the_end() -> None:
    bench = Bench()
    await bench.run("a1", waits=True)
    await bench.run("a2")
    closing = asyncio.create_task(bench.lanes.close(10))
    await asyncio.sleep(0)  # one turn of the loop
    bench.gates["a1"].set()
    await closing
    assert bench.done == ["a1", "a2"]
