"""A deleted pipeline leaves no row, file or training set, cut short anywhere or not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from lending import EPOCH, append, credit_risk, record
from online_worlds import OnlineWorld
from sqlalchemy import func, select

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.events import TrainingSet
from penstock.contracts.topics import source_topic
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.kafka.messages import Batch, Message, Partition
from penstock.runtime.pipelines import Applied
from penstock.runtime.readiness import Readiness
from penstock.runtime.store import Store
from penstock.testing.packages import NOW
from penstock.testing.threads import in_a_thread
from penstock_feature_store.deletion import Deletion
from penstock_feature_store.lake.arrivals import Arrivals
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.lake.records import Records
from penstock_feature_store.online.writer import step
from penstock_feature_store.pipelines import Pipelines
from penstock_feature_store.settings import Settings
from penstock_feature_store.store import PipelineRow, TrainingSetRow

NAME = "credit-risk"
WHO = "Ada-1815"


class Cut(Exception):
    pass


class SlowLake:
    """Writes until it is told that it may end."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.ended = 0

    def positions(self) -> dict[int, int]:
        return {}

    def append(self, *_: Any) -> None:
        self.began.set()
        assert self.may_end.wait(30)
        self.ended += 1


class World:
    """A feature store that owns its lake, with a pipeline's rows in it."""

    def __init__(self, folder: Path, online: OnlineWorld) -> None:
        self.folder = folder
        self.store = Store.open(
            f"sqlite:///{folder / 'fs.db'}", migrations="penstock_feature_store.migrations"
        )
        self.artifacts = Artifacts(f"file://{folder}/artifacts")
        self.lake, self.online = Lake(folder / "lake"), online
        records = Records(Settings(), Arrivals(), Readiness(lambda: NOW))
        feast = folder / "feast"
        self.deletion = Deletion(self.store, self.lake, online.stores, feast, self.artifacts)
        self.pipelines = Pipelines(
            self.store, self.lake, online.stores, feast, records, Keys(folder / "keys"), self.deletion
        )

    async def applies(self, number: int) -> None:
        await self.pipelines._apply(Applied(credit_risk(), number, "sha256:1"), None)

    def fills(self) -> None:
        held = self.pipelines.owned(NAME)
        append(
            held.lakes["applications"], held.pipeline, "applications", [record(0, WHO, 0, {"income": 1.0})]
        )
        assert step(held, "applications", lambda *_: None)
        part = self.artifacts.put_bytes("training-sets/set/train.parquet", b"rows")
        made = TrainingSet(
            fingerprint="sha256:0",
            pipeline=NAME,
            train=part,
            validation=part,
            audit=part,
            rows={},
            offsets=(),
            created_at=EPOCH,
        )
        with in_a_thread(self.store.transaction()) as effect:
            row = TrainingSetRow(id="set", pipeline=NAME, number=1, body=made, created_at=EPOCH)
            effect.session.add(row)

    def rows(self, table: type[PipelineRow | TrainingSetRow]) -> int:
        with in_a_thread(self.store.snapshot()) as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def close(self) -> None:
        self.pipelines.close()
        self.store.close()


def left(world: World) -> list[str]:
    """Traces of the pipeline, in files and rows."""
    places = [world.folder / "lake" / NAME, world.folder / "feast" / NAME]
    found = [str(place) for place in places if place.exists()]
    found += ["training set"] if (world.folder / "artifacts/training-sets/set").exists() else []
    found += ["online"] if world.online.holds(WHO) else []
    return found + [table.__tablename__ for table in (PipelineRow, TrainingSetRow) if world.rows(table)]


def test_a_batch_that_is_being_written_is_waited_for_and_none_is_written_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, lake = Records(Settings(), Arrivals(), Readiness(lambda: NOW)), SlowLake()
    records.add(credit_risk(), "applications", lake)  # type: ignore[arg-type]
    place = Partition(source_topic("records", NAME, "applications"), 0)
    batch = Batch(place, [Message(0, None, b"", 0, ())], 1)
    monkeypatch.setattr(records.letters, "put_all", lambda *_: None)
    writing = threading.Thread(target=records.write, args=(batch,))
    removing = threading.Thread(target=records.remove, args=(NAME, "applications"))
    writing.start()
    assert lake.began.wait(30)
    removing.start()
    removing.join(0.1)
    assert removing.is_alive(), "the lake's folder would go under who writes to it"
    lake.may_end.set()
    for thread in (writing, removing):
        thread.join(30)
    records.write(batch)
    assert lake.ended == 1


async def test_all_goes_at_once_and_whoever_holds_it_writes_nothing_more(
    tmp_path: Path, online_world: OnlineWorld
) -> None:
    world = World(tmp_path, online_world)
    await asyncio.to_thread(world.pipelines.own)
    await world.applies(1)
    world.fills()
    held = world.pipelines.owned(NAME)
    await world.pipelines._forget(NAME, 1)
    assert left(world) == []
    assert not step(held, "applications", lambda *_: None)
    assert world.pipelines.all() == []
    await world.pipelines._forget(NAME, 1)  # at each start
    await world.applies(2)
    await world.pipelines._forget(NAME, 1)
    assert world.pipelines.owned(NAME).lakes["applications"].positions() == {}
    assert world.rows(PipelineRow) == 1
    world.close()


async def test_one_that_cannot_be_removed_keeps_no_other_from_being_owned(
    tmp_path: Path, online_world: OnlineWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, online_world)
    await world.applies(1)
    await world.pipelines._forget("broken", 1)

    def refuse(*_: Any) -> None:
        raise Invalid("its file is damaged")

    monkeypatch.setattr(world.deletion, "remove", refuse)
    await asyncio.to_thread(world.pipelines.own)
    assert world.pipelines.owned(NAME).number == 1
    world.close()


async def test_a_store_that_is_away_keeps_only_the_deleted_pipeline_waiting(
    tmp_path: Path, online_world: OnlineWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, online_world)
    await world.applies(1)
    await world.pipelines._forget(NAME, 1)
    await world.applies(2)

    def away(*_: Any) -> None:
        raise Unavailable("Redis does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(world.deletion, "remove", away)
        await asyncio.to_thread(world.pipelines.own)
        await asyncio.to_thread(world.pipelines.delete_again)
    assert world.pipelines.all() == [], "rows of the old pipeline may be left"
    assert world.pipelines.get(NAME).number == 2
    await asyncio.to_thread(world.pipelines.delete_again)
    assert world.pipelines.owned(NAME).number == 2
    world.close()


@pytest.mark.parametrize(("cut", "at"), [(Lake, "remove"), (Artifacts, "delete"), (Store, "transaction")])
async def test_a_deletion_that_is_cut_short_is_finished_before_the_lake_is_used_again(
    tmp_path: Path, online_world: OnlineWorld, monkeypatch: pytest.MonkeyPatch, cut: type, at: str
) -> None:
    first = World(tmp_path, online_world)
    await asyncio.to_thread(first.pipelines.own)
    await first.applies(1)
    first.fills()

    def stop(*_: Any, **__: Any) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(cut, at, stop)
        with pytest.raises(Cut):
            await asyncio.to_thread(first.deletion.remove, NAME, 1)
    first.close()

    again = World(tmp_path, online_world)
    assert await again.pipelines.reopen()
    await again.pipelines._forget(NAME, 1)
    await again.applies(2)  # anew, before this replica owns the lake
    await asyncio.to_thread(again.pipelines.own)
    assert again.rows(TrainingSetRow) == 0
    assert not again.online.holds(WHO)
    assert again.pipelines.owned(NAME).number == 2
    assert again.pipelines.owned(NAME).lakes["applications"].positions() == {}
    again.close()
