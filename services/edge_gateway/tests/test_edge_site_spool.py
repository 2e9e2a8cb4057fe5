"""A spool loses nothing, uses no sequence twice, and leaves a gap for what it had to drop."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.testing.wait import until
from penstock_edge_gateway.site.spool import Batch, Gap, Record, Spool
from penstock_edge_gateway.site.spool_file import Full, SpoolFile

SIZE = 1 << 20
MEMORY = Path("/dev/shm")
LARGE = 10_000
ROOM = 50  # records of LARGE bytes that surely fit into SIZE


def record(number: int, entity: str = "", size: int = 0, required: bool = False) -> Record:
    body = b"%d;" % number + b"x" * size
    return Record("loans", "applications", entity or f"e{number % 7}", body, required)


def numbers(batch: Batch) -> list[int]:
    return [int(one.body.split(b";")[0]) for one in batch.entries if isinstance(one, Record)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture(params=[True, False], ids=["durable", "fast"])
def spool(request: pytest.FixtureRequest, path: Path) -> Iterator[Spool]:
    with Spool(path, durable=request.param, size=SIZE) as spool:
        yield spool


class Clock:
    """A machine's clock that a test sets, and boots."""

    def __init__(self) -> None:
        self.boot, self.seconds = "first", 1000.0

    def __call__(self) -> tuple[str, float]:
        return self.boot, self.seconds


# -- any order of calls --------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """The spool beside a list that does the same."""

    @initialize(durable=st.booleans())
    def opened(self, durable: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None)
        self.durable = durable
        self.clock = Clock()
        self.count = 0
        self.kept: list[int | str] = []  # numbers of records, reasons of gaps, from `reached` on
        self.spool = self.open()

    def open(self) -> Spool:
        path = Path(self.folder.name) / "lane.db"
        return Spool(path, durable=self.durable, size=64 << 20, clock=self.clock)

    @rule(count=st.integers(0, 9))
    def append(self, count: int) -> None:
        added = range(self.count, self.count + count)
        last = self.spool.append([record(number) for number in added])
        self.count += count
        self.kept += added
        assert last == self.spool.reached + len(self.kept)

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        taken = round(share * len(self.kept))
        self.spool.acknowledge(self.spool.reached + taken)
        del self.kept[:taken]

    @rule(most=st.integers(1, 9))
    def drop(self, most: int) -> None:
        found = [at for at, one in enumerate(self.kept) if isinstance(one, int)][:most]
        assert self.spool.drop(most) == len(found)
        for at in found:
            self.kept[at] = "full"

    @rule(entity=st.integers(0, 6))
    def erase(self, entity: int) -> None:
        found = [at for at, one in enumerate(self.kept) if isinstance(one, int) and one % 7 == entity]
        assert self.spool.erase("loans", f"e{entity}") == len(found)
        for at in found:
            self.kept[at] = "erased"

    @rule(boots=st.booleans(), passes=st.floats(0, 100))
    def opened_again(self, boots: bool, passes: float) -> None:
        before = self.spool.depth()
        self.spool.__exit__()
        self.clock.seconds += passes
        if boots:
            self.clock.boot, self.clock.seconds = self.clock.boot + "+", 3.0
        self.spool = self.open()
        after = self.spool.depth()
        assert after.records == before.records
        if before.oldest_s is not None and after.oldest_s is not None and not boots:
            assert after.oldest_s == pytest.approx(before.oldest_s + passes)

    @rule()
    def the_hub_forgot(self) -> None:
        epoch, reached = self.spool.epoch, self.spool.reached
        self.spool.resume(0, epoch)
        assert (self.spool.epoch == epoch) == (reached == 0)
        assert self.spool.reached == 0

    @invariant()
    def all_is_there_in_order(self) -> None:
        batch = self.spool.read(10_000, 1 << 30)
        found: list[int | str] = []
        for one in batch.entries:
            found += [one.reason] * one.records if isinstance(one, Gap) else [int(one.body[:-1])]
        assert found == self.kept
        assert batch.first == self.spool.reached + 1
        assert batch.last == self.spool.reached + len(self.kept)

    def teardown(self) -> None:
        self.spool.__exit__()
        self.folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


# -- bounds --------------------------------------------------------------------------------------------


def test_a_batch_is_bounded_by_records_and_by_bytes(spool: Spool) -> None:
    spool.append([record(number, size=1000) for number in range(10)])
    assert numbers(spool.read(3, SIZE)) == [0, 1, 2]
    assert numbers(spool.read(10, 2500)) == [0, 1]
    assert numbers(spool.read(10, 10)) == [0]  # one that is larger goes by itself


def test_a_full_spool_keeps_what_it_has_and_takes_more_when_the_hub_has_some(spool: Spool) -> None:
    kept = fill(spool)
    assert kept > ROOM
    with pytest.raises(Full):
        spool.append([record(number, size=LARGE) for number in range(ROOM)])
    assert spool.depth().records == kept
    assert spool.depth().bytes <= SIZE
    spool.acknowledge(ROOM)
    assert spool.append([record(kept, size=LARGE)]) == kept + 1
    assert numbers(spool.read(10_000, SIZE)) == [*range(ROOM, kept + 1)]


def test_a_full_spool_drops_the_oldest_but_what_must_be_recorded(spool: Spool) -> None:
    spool.append([record(0, size=LARGE, required=True)])
    kept = fill(spool, first=1)
    assert spool.drop(ROOM) == ROOM
    assert spool.append([record(kept + 1, size=LARGE)])
    first, gap, second, *_ = spool.read(10_000, SIZE).entries
    assert first == record(0, size=LARGE, required=True)
    assert gap == Gap(ROOM, "full")
    assert second == record(ROOM + 1, size=LARGE)
    assert spool.drop(1 << 30) == kept - ROOM + 1
    assert spool.drop(1 << 30) == 0


def test_a_file_shrinks_when_all_is_forwarded(spool: Spool, tmp_path: Path) -> None:
    with Spool(tmp_path / "large.db", durable=False, size=64 << 20) as large:
        large.append([record(number, size=LARGE) for number in range(1000)])
        assert large.depth().bytes > 10_000_000
        large.acknowledge(1000)
        assert large.depth().bytes < 100_000
    assert (tmp_path / "large.db").stat().st_size < 1_000_000


def test_who_keeps_a_record_waits_for_no_large_file_to_shrink(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[None] = []

    def shrink(file: SpoolFile) -> bool:
        steps.append(None)
        return len(steps) < 2000

    def keep() -> None:
        until(lambda: steps, what="it shrinks")
        spool.append([record(1)])

    monkeypatch.setattr(SpoolFile, "has_waste", True)
    monkeypatch.setattr(SpoolFile, "shrink", shrink)
    spool.append([record(0)])
    keeps = threading.Thread(target=keep)
    keeps.start()
    spool.acknowledge(1)
    keeps.join()
    assert 0 < len(steps) < 2000


def test_what_may_be_dropped_is_found_without_reading_all(path: Path) -> None:
    with Spool(path, durable=False, size=64 << 20, clock=Clock()) as spool:
        spool.append([record(number, required=True) for number in range(5000)])
        spool.append([record(number) for number in range(5000)])
        work: list[None] = []
        spool._db.set_progress_handler(lambda: work.append(None), 100)  # instructions of SQLite
        assert spool.drop(10, older_than_s=60) == 0
        assert spool.drop(10) == 10
        assert len(work) < 50


# -- damage --------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_lies_aside_after_a_start(path: Path) -> None:
    path.write_bytes(b"canary" * 2000)
    with Spool(path, durable=True, size=SIZE) as spool:
        assert spool.aside == path.with_name("events.db-aside-1")
        assert spool.aside.read_bytes().startswith(b"canary")
        assert spool.append([record(0)]) == 1
    with Spool(path, durable=True, size=SIZE) as spool:
        assert (spool.aside, numbers(spool.read(9, SIZE))) == (None, [0])


def test_damage_that_is_found_later_counts_at_the_next_start(path: Path) -> None:
    with Spool(path, durable=True, size=SIZE) as spool:
        spool.append([record(number, size=3000) for number in range(100)])
    data = bytearray(path.read_bytes())
    data[50 * 4096 : 60 * 4096] = b"\xff" * (10 * 4096)
    path.write_bytes(data)
    with Spool(path, durable=True, size=SIZE) as spool:
        assert spool.aside is None
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            spool.read(100, SIZE)
    with Spool(path, durable=True, size=SIZE) as spool:
        assert spool.aside
        assert b"\xff" * (10 * 4096) in spool.aside.read_bytes()
        assert spool.depth().records == 0


def fill(spool: Spool, first: int = 0) -> int:
    kept = first
    try:
        while True:
            spool.append([record(kept, size=LARGE)])
            kept += 1
    except Full:
        return kept - first


# -- age -----------------------------------------------------------------------------------------------


def test_age_counts_what_the_machine_was_on_for(path: Path) -> None:
    clock = Clock()
    with Spool(path, durable=False, size=SIZE, clock=clock) as spool:
        spool.append([record(0)])
        clock.seconds += 50
        spool.append([record(1)])
    clock.seconds += 10  # stopped for so long
    with Spool(path, durable=False, size=SIZE, clock=clock) as spool:
        assert spool.depth().oldest_s == 60
    clock.boot, clock.seconds = "second", 5.0  # for as long as it was off, nobody knows
    with Spool(path, durable=False, size=SIZE, clock=clock) as spool:
        clock.seconds += 20
        assert spool.depth().oldest_s == 70
        assert spool.drop(10, older_than_s=60) == 1
        assert spool.read(10, SIZE).entries == (Gap(1, "old"), record(1))


def test_the_rate_so_far_says_when_it_will_be_full(path: Path) -> None:
    clock = Clock()
    with Spool(path, durable=False, size=SIZE, clock=clock) as spool:
        assert spool.depth().full_in_s is None
        spool.append([record(number, size=1000) for number in range(100)])
        clock.seconds += 3600
        left, used = SIZE - spool.depth().bytes, spool.depth().bytes
        assert spool.depth().full_in_s == pytest.approx(3600 * left / used)


# -- erasure -------------------------------------------------------------------------------------------


def test_an_erased_person_is_in_no_file(spool: Spool, path: Path) -> None:
    spool.append([record(number, entity="canary-person", size=5000) for number in range(3)])
    spool.append([record(9, entity="someone else")])
    spool.append([Record("loans", "applications", "canary-person", b"10;canary-body" * 500)])
    assert any(b"canary" in file.read_bytes() for file in path.parent.iterdir())
    assert spool.erase("loans", "canary-person") == 4
    for file in path.parent.iterdir():
        assert b"canary" not in file.read_bytes(), file.name
    assert spool.read(10, SIZE).entries == (
        Gap(3, "erased"),
        record(9, entity="someone else"),
        Gap(1, "erased"),
    )


def test_only_its_owner_reads_it(spool: Spool, path: Path) -> None:
    spool.append([record(0)])
    modes = {file.name: file.stat().st_mode & 0o077 for file in path.parent.glob("events.db*")}
    assert set(modes) == {"events.db", "events.db-wal", "events.db-shm"}
    assert not any(modes.values())


# -- kill -9 -------------------------------------------------------------------------------------------

WRITER = """\
import sys
from pathlib import Path
from penstock_edge_gateway.site.spool import Record, Spool
spool = Spool(Path(sys.argv[1]), durable=sys.argv[2] == "True", size=64 << 20)
number = int(sys.argv[3])
while True:
    group = [Record("loans", "applications", "e", b"%d;" % one) for one in range(number, number + 5)]
    last = spool.append(group)
    number += 5
    print(number, flush=True)
    if number % 4 == 0:  # the hub takes some
        spool.read(3, 1 << 20)
        spool.acknowledge(spool.reached + 3)
"""


@pytest.mark.process
@pytest.mark.parametrize("durable", [True, False])
def test_killed_anywhere_it_has_all_that_it_took(path: Path, durable: bool) -> None:
    draw, number = random.Random(7), 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(durable), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        said = writer.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.3))  # the moment of the kill
        writer.send_signal(signal.SIGKILL)
        said = ("\n" + said + writer.stdout.read()).rstrip("\n").rpartition("\n")[2]
        writer.wait()
        with Spool(path, durable=durable, size=64 << 20) as spool:
            batch = spool.read(1 << 30, 1 << 30)
            found = numbers(batch)
            assert found == [*range(spool.reached, batch.last)]  # sequence = number + 1
            assert batch.last in (int(said), int(said) + 5)  # at most the one that it could not confirm
            number = batch.last


def test_a_checkpoint_keeps_nobody_waiting_and_lets_the_log_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, held, go_on = tmp_path / "p.db", threading.Event(), threading.Event()
    moves = SpoolFile.checkpoint_beside

    def slow(file: SpoolFile) -> None:
        moves(file)
        held.set()
        assert go_on.wait(10)

    monkeypatch.setattr(SpoolFile, "checkpoint_beside", slow)
    large = [Record("loans", "", "", b"x" * 4000)] * 100
    with Spool(path, durable=False, size=64 << 20) as spool:
        spool.append(large)
        assert spool.logged > 400_000
        moving = threading.Thread(target=spool.checkpoint)
        moving.start()
        assert held.wait(10)
        spool.append(large[:1])  # would wait for ever
        go_on.set()
        moving.join()
        log = path.with_name("p.db-wal")
        before = log.stat().st_size
        spool.append(large[:50])
        assert (log.stat().st_size, spool.logged < 250_000) == (before, True), "it was begun anew"
        assert len(spool.read(1000, 1 << 30).entries) == 151
