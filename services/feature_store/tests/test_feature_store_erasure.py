"""An erasure that is cut short anywhere is made good, and says in the end what left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from lending import EPOCH, append, credit_risk, record
from sqlalchemy import delete

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.events import TrainingSet
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.store import Store
from penstock.testing.broker import free_ports
from penstock.testing.stores import new_store
from penstock_feature_store import names
from penstock_feature_store.erasure import Erasures
from penstock_feature_store.lake import durable
from penstock_feature_store.lake.lake import Lake
from penstock_feature_store.online.redis import RedisOnlineStores
from penstock_feature_store.online.redis_server import Address
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.online.stores import OnlineStores
from penstock_feature_store.store import PipelineRow, TrainingSetRow
from penstock_feature_store.training.join import key_of
from penstock_feature_store.training.parts import Part
from penstock_feature_store.training.splits import PARTS

WHO = "Ada-1815"
STEPS = 10
"""Journal; two lake files; two notes and two parts; manifest; database; the journal's end."""


class Cut(Exception):
    pass


class World:
    def __init__(self, folder: Path, database: str, root: str) -> None:
        self.folder = folder
        self.keys = Keys(folder / "keys")
        self.keys.ensure()
        self.pipeline = credit_risk()
        self.store = new_store(database, "penstock_feature_store.migrations")
        self.artifacts = Artifacts(root)
        self.lake = Lake(folder / "lake")
        for source in ("applications", "outcomes"):
            records = [
                record(number, WHO if number % 3 == 0 else f"a{number}", number, {}) for number in range(9)
            ]
            append(self.lake.source("credit-risk", source), self.pipeline, source, records)
        made = TrainingSet(
            fingerprint="sha256:0",
            pipeline="credit-risk",
            **{part: self.put(part, [WHO, "b", WHO, "c"] if part != "audit" else ["d"]) for part in PARTS},  # type: ignore[arg-type]
            rows={"train": 4, "validation": 4, "audit": 1},
            offsets=(),
            created_at=EPOCH,
        )
        with self.store.transaction() as effect:
            effect.session.add(PipelineRow(name="credit-risk", number=1, spec=self.pipeline))
            effect.session.add(
                TrainingSetRow(
                    id="set",
                    pipeline="credit-risk",
                    number=1,
                    body=made,
                    created_at=EPOCH,
                )
            )

    def put(self, part: str, entities: list[str]) -> Any:
        file = self.folder / "part.parquet"
        pq.write_table(pa.table({names.ENTITY: entities}), file)
        return self.artifacts.put_file(key_of("set", part), file)

    def erasures(self, stores: OnlineStores | None = None) -> Erasures:
        lake, stores = Lake(self.folder / "lake"), stores or SqliteOnlineStores()
        return Erasures(
            self.store,
            lake,
            self.artifacts,
            stores,
            self.folder / "feast",
            self.folder / "erasures",
            self.keys,
        )

    def training_set(self) -> TrainingSet:
        with self.store.snapshot() as session:
            return session.get_one(TrainingSetRow, "set").body


@pytest.fixture
def world(tmp_path: Path, database: str, root: str) -> Iterator[World]:
    made = World(tmp_path, database, root)
    yield made
    made.store.close()


@pytest.mark.usefixtures("artifacts_root")
def test_what_left_is_told(world: World) -> None:
    erased = world.erasures().erase("credit-risk", WHO)
    assert (erased.lake_rows, erased.online, erased.training_set_rows) == (6, False, 4)
    check(world)


def test_an_unknown_pipeline(world: World) -> None:
    with pytest.raises(NotFound):
        world.erasures().erase("credit", WHO)


@pytest.mark.usefixtures("artifacts_root")
@pytest.mark.parametrize("step", range(1, STEPS + 2))
def test_an_erasure_cut_short_anywhere_is_finished_at_the_next_start(
    world: World, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at the `step`-th time that something becomes durable: a lake file, a note in the journal,
    a part, the database.
    """
    left = step
    originals = (durable.place, Artifacts.put_bytes, Store.transaction, durable.remove, Artifacts.replace)

    def counting(original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Cut
            return original(*arguments, **named)

        return call

    monkeypatch.setattr(durable, "place", counting(originals[0]))
    monkeypatch.setattr(Artifacts, "put_bytes", counting(originals[1]))
    monkeypatch.setattr(Store, "transaction", counting(originals[2]))
    monkeypatch.setattr(durable, "remove", counting(originals[3]))
    monkeypatch.setattr(Artifacts, "replace", counting(originals[4]))
    try:
        world.erasures().erase("credit-risk", WHO)
        cut = False
    except Cut:
        cut = True
    monkeypatch.undo()
    began = any((world.folder / "erasures").glob("[!.]*.json"))
    assert world.erasures().resume() == (1 if began else 0)
    assert cut == (step <= STEPS)
    if not began and step == 1:  # it never began, so nothing changed
        assert world.training_set().rows == {"train": 4, "validation": 4, "audit": 1}
        return
    check(world)


def test_an_erasure_goes_on_when_the_online_store_is_back(world: World) -> None:
    (port,) = free_ports(1)
    away = world.erasures(RedisOnlineStores(Address("127.0.0.1", port, 0, tls=False, user=None), None))
    with pytest.raises(Unavailable, match="goes on by itself"):
        away.erase("credit-risk", WHO)
    ((journal, pipeline),) = away.begun()
    assert pipeline == "credit-risk"
    assert not away.finish(journal)
    assert away.resume() == 1
    assert len(away.begun()) == 1
    back = world.erasures()
    assert back.finish(journal)
    assert back.finish(journal), "another one ended it meanwhile"
    check(world)


def test_one_that_has_begun_ends_with_its_pipeline_and_not_with_its_database(world: World) -> None:
    (port,) = free_ports(1)
    away = world.erasures(RedisOnlineStores(Address("127.0.0.1", port, 0, tls=False, user=None), None))
    with pytest.raises(Unavailable):
        away.erase("credit-risk", WHO)
    ((journal, _),) = away.begun()
    with world.store.transaction() as effect:
        effect.session.execute(delete(PipelineRow))
    assert not world.erasures().finish(journal), "its rows are in the lake, whatever the database says"
    world.lake.remove("credit-risk")
    assert world.erasures().finish(journal)
    assert away.begun() == []


def test_a_part_is_written_again_as_it_was_written_first(world: World) -> None:
    """Pages and row groups are what a run that does not fit into memory reads in turn."""
    entities = [[f"a{n % 997}" if n % 50 else WHO for n in range(start, start + 20_000)] for start in (0, 7)]
    tables = [
        pa.table({names.ENTITY: of, "n": np.arange(len(of)) * 0.1, "purpose": ["home", None] * 10_000})
        for of in [*entities, [WHO] * 20_000]
    ]

    def written(tables: list[pa.Table]) -> Path:
        part = Part(world.folder / "part.out", tables[0].schema)
        for table in tables:
            part.add(table)
        part.close()
        return part.path

    kept = [table.filter(pc.not_equal(table.column(names.ENTITY), WHO)) for table in tables]
    with world.store.transaction() as effect:
        row = effect.session.get_one(TrainingSetRow, "set")
        part = world.artifacts.put_file(key_of("set", "train"), written(tables))
        row.body = row.body.model_copy(update={"train": part, "rows": row.body.rows | {"train": 60_000}})
    assert world.erasures().erase("credit-risk", WHO).training_set_rows == 20_800 + 2
    made = world.training_set()
    assert world.artifacts.read(made.train) == written(kept).read_bytes()
    assert made.rows["train"] == 60_000 - 20_800


def check(world: World) -> None:
    made = world.training_set()
    verify_fact(made, world.keys.trust())
    assert made.left == {"train": 2, "validation": 2}
    assert made.rows == {"train": 2, "validation": 2, "audit": 1}
    assert made.fingerprint == "sha256:0"
    for part in PARTS:
        data = world.artifacts.read(getattr(made, part))
        assert WHO not in pq.read_table(pa.BufferReader(data)).column(names.ENTITY).to_pylist()
    for path in world.folder.rglob("*"):
        if path.is_file():
            assert WHO.encode() not in path.read_bytes(), path
            if path.suffix == ".parquet":
                assert WHO not in pq.read_table(path).column(names.ENTITY).to_pylist()
    lake = Lake(world.folder / "lake")
    assert [lake.source("credit-risk", source).count() for source in ("applications", "outcomes")] == [6, 6]
    assert not list((world.folder / "erasures").iterdir())
