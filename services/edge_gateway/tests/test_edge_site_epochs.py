"""A new epoch numbers what is left anew: nothing of it is taken for what the one before had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock_edge_gateway.site import spool as spool_module
from penstock_edge_gateway.site.spool import Record, Spool
from penstock_edge_gateway.site.spool_file import Full, SpoolFile

SIZE = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "lane.db", durable=False, size=SIZE) as spool:
        spool.append([record(number) for number in range(10)])
        yield spool


def record(number: int) -> Record:
    return Record("loans", "applications", "", b"%d" % number)


def left(spool: Spool) -> list[int]:
    return [int(one.body) for one in spool.read(99, SIZE).entries if isinstance(one, Record)]


def test_all_is_on_disk_before_it_is_forwarded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[None] = []
    spool.acknowledge(spool.read(3, SIZE).last)
    monkeypatch.setattr(SpoolFile, "sync", lambda file: syncs.append(None))
    spool.resume(0, spool.epoch)
    spool.append([record(10)])
    spool.read(3, SIZE)
    assert len(syncs) == 1


def test_what_an_acknowledgement_of_the_one_before_did_not_come_to_stays(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, between = spool.epoch, iter([spool.begin_epoch])
    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "time", SimpleNamespace(sleep=lambda _: next(between, int)()))
        spool.resume(4, before)
    assert spool.epoch != before
    assert left(spool) == [4, 5, 6, 7, 8, 9]
    spool.resume(6, before)
    assert left(spool) == [4, 5, 6, 7, 8, 9]


def test_one_that_the_disk_has_no_room_for_does_not_begin(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(change: object) -> None:
        raise Full

    spool.acknowledge(2)
    before = spool.epoch
    with monkeypatch.context() as patch:
        patch.setattr(spool._file, "freeing", full)
        with pytest.raises(Full):
            spool.begin_epoch()
    assert (spool.epoch, spool.reached, spool.read(9, SIZE).first) == (before, 2, 3)
    assert left(spool) == [2, 3, 4, 5, 6, 7, 8, 9]
