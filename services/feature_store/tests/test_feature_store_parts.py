"""The smaller parts: work in other processes, the trigger's rule, migrations, settings."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penstock.contracts.errors import Invalid, Unavailable
from penstock.contracts.events import TrainingRunRequested, encode
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.cloud_events import Received
from penstock.runtime.store import Effect, Store, assert_migrations_match
from penstock.testing import lending
from penstock.testing.threads import in_a_thread
from penstock_feature_store.handlers import router
from penstock_feature_store.names import column_of
from penstock_feature_store.pipelines import Gate
from penstock_feature_store.settings import Settings
from penstock_feature_store.store import (
    Labels,
    Tables,
    TrainingSetRow,
    begin_run,
    count_up_to,
    counted,
    end_run,
    keep_training_set,
    runs_under_way,
)
from penstock_feature_store.training.fingerprint import fingerprint
from penstock_feature_store.training.labels import labels_of
from penstock_feature_store.training.spawner import Spawner
from penstock_feature_store.training.trigger import due

SCRIPT = """
import asyncio, json, os, sys
from penstock_feature_store.training.spawner import Spawner
spawner = Spawner.start(warm="json")
async def main():
    outcomes = []
    for work in sys.argv[1:]:
        try:
            outcomes.append(await spawner.run(work, {"pid": os.getpid()}))
        except Exception as error:
            outcomes.append([type(error).__name__, str(error)])
    answers = (spawner.run("fs_work:answer", {"number": number}) for number in range(5))
    outcomes += await asyncio.gather(*answers)
    print(json.dumps({"outcomes": outcomes, "waiting": spawner.pid}), flush=True)
    sys.stdin.read()
asyncio.run(main())
"""
WORK = """
import os, signal
from penstock.contracts.errors import Invalid
def answer(order): return order | {"mine": os.getpid(), "bulk": "x" * 300_000 if "number" in order else ""}
def refuse(order): raise Invalid("no", where="here", remedy="Do so")
def stumble(order): raise KeyError("oops")
def die(order): os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def spawned(tmp_path: Path) -> Any:
    (tmp_path / "fs_work.py").write_text(WORK)
    works = [f"fs_work:{name}" for name in ("answer", "refuse", "stumble", "die", "answer")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *works],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout
    yield process, json.loads(process.stdout.readline())
    process.kill()
    process.communicate()


@pytest.mark.process
def test_work_in_other_processes(spawned: Any) -> None:
    _, said = spawned
    answered, refused, stumbled, died, again, *many = said["outcomes"]
    assert answered["mine"] not in (answered["pid"], said["waiting"], again["mine"])
    assert refused == ["Invalid", "here: no. Do so"]
    assert stumbled == ["PenstockError", "KeyError: 'oops'"]
    assert died[0] == "Unavailable"
    assert [one["number"] for one in many] == list(range(5))


@pytest.mark.process
def test_the_waiting_process_ends_with_the_service(spawned: Any) -> None:
    process, said = spawned
    waiting = os.pidfd_open(said["waiting"])
    os.kill(said["waiting"], signal.SIGTERM)
    process.kill()
    process.wait(10)
    assert select.select([waiting], [], [], 10)[0]


def test_a_service_whose_spawner_died_says_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen(["true"])
    theirs.close()
    spawner = Spawner(ours, child.pid)
    with pytest.raises(Unavailable):
        asyncio.run(spawner.run("json:dumps", {}))
    with pytest.raises(Unavailable):
        asyncio.run(spawner.watch())


@pytest.mark.parametrize(
    ("labels", "runs", "expected"),
    [(9, 0, False), (10, 0, True), (11, 0, True), (10, 1, False), (0, 0, False)],
)
def test_a_run_is_due(labels: int, runs: int, expected: bool) -> None:
    assert due(labels, 10, runs) is expected


def test_counting_never_goes_back(database: str) -> None:
    store = Store.open(database, migrations="penstock_feature_store.migrations")
    assert_migrations_match(store, Tables.metadata)
    with store.transaction() as effect:
        count_up_to(effect.session, "p", "s", {0: 10, 1: 5})
    with store.transaction() as effect:
        count_up_to(effect.session, "p", "s", {0: 7, 1: 6, 2: 1})
        begin_run(effect.session, "r", "p")
        begin_run(effect.session, "r", "p")
    with store.transaction() as effect:
        assert counted(effect.session, "p", "s") == {0: 10, 1: 6, 2: 1}
        assert runs_under_way(effect.session, "p") == 1
        end_run(effect.session, "r")
        assert runs_under_way(effect.session, "p") == 0


def test_a_set_takes_labels_from_the_trigger_when_a_run_trains_on_it(database: str) -> None:
    """In whichever order set and request are heard of; a study's set alone takes none."""
    store = Store.open(database, migrations="penstock_feature_store.migrations")

    def make(effect: Effect, name: str, position: int) -> None:
        made = lending.training_set("p")
        labels = Labels(source="s", positions={0: position})
        row = TrainingSetRow(
            id=name, pipeline="p", number=1, body=made, created_at=made.created_at, labels=labels
        )
        keep_training_set(effect.session, row)

    def taken() -> int:
        with store.transaction() as effect:
            return counted(effect.session, "p", "s").get(0, 0)

    with store.transaction() as effect:
        make(effect, "study", 10)
    assert taken() == 0
    with store.transaction() as effect:
        begin_run(effect.session, "final", "p", "study")
    assert taken() == 10
    with store.transaction() as effect:
        begin_run(effect.session, "run", "p")
        make(effect, "run", 20)
    assert taken() == 20
    with store.transaction() as effect:
        make(effect, "early", 30)
        begin_run(effect.session, "early", "p")
    assert taken() == 30


@pytest.mark.parametrize(("run_id", "under_way"), [("01KA", 1), ("0b6f2b3e-6b1e-4d53-8f0a-3d1f0c4f8f3a", 0)])
async def test_a_wish_that_the_trainer_turns_away_is_under_way_nowhere(
    run_id: str, under_way: int, database: str
) -> None:
    """It would hold back every run that labels trigger."""
    store = Store.open(database, migrations="penstock_feature_store.migrations")
    wish = TrainingRunRequested(
        run_id=run_id,
        pipeline="p",
        pipeline_number=1,
        reason="requested",
        requested_at=datetime.now(UTC),
        requested_by="me",
    )
    with nullcontext() if under_way else pytest.raises(Invalid, match="cannot name a run"):
        house = router(None, store, None)  # type: ignore[arg-type]  # not asked
        await house.handle(Received(wish.topic, 0, 0, "e", wish.ce_type(), {}, encode(wish)))
    with in_a_thread(store.snapshot()) as session:
        assert runs_under_way(session, "p") == under_way
    store.close()


async def test_an_erasure_that_is_called_off_while_it_waits_lets_training_sets_in() -> None:
    gate = Gate()
    async with gate.shared():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), gate.alone():
                pass
    async with asyncio.timeout(5), gate.shared():
        pass


def test_columns_that_databases_would_confuse_have_names_of_their_own() -> None:
    fields = ["income", "Income", "INCOME", "salary_y", "salary", "event_timestamp", "__id", "_x", "x"]
    columns = [column_of(field) for field in fields]
    assert len({column.lower() for column in columns}) == len(fields)
    assert columns[0] == "income"
    assert not any(column.endswith("_y") or column.startswith("__") for column in columns)


def test_a_misspelt_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FEATURE_STORE__LINGERS", "1")
    with pytest.raises(Invalid, match="LINGER_S"):
        Settings()


def test_the_fingerprint_is_pinned() -> None:
    """A release must give the same name to the same rows."""
    table = pa.table(
        {"number": [1.5, None, -0.0], "text": ["a", None, "é"], "whole": pa.array([1, 2, None], pa.int64())}
    )
    parts = {"train": table, "audit": table.slice(1)}
    whole = fingerprint(parts, {"asked": 1}, [("t", 0, 0, 3)])
    chunked = {name: pa.concat_tables([part.slice(0, 1), part.slice(1)]) for name, part in parts.items()}
    assert fingerprint(chunked, {"asked": 1}, [("t", 0, 0, 3)]) == whole
    assert whole == "sha256:0e317678defbba20ce401f18d3e49032356b2e9e679486610860bdcbab5828d6"


def test_several_values_besides_the_positive_one_are_counted() -> None:
    spec = lending.spec(
        targets={"default": {"from": "applications.defaulted", "type": "binary", "positive": "y"}}
    )
    spec["sources"]["applications"]["fields"]["defaulted"] = {"type": "category"}
    asked = Pipeline.model_validate(spec)
    three = labels_of(asked, pa.chunked_array([["y", "n", "open", "n", "y"]]))
    assert (three.classes, three.merged) == (("not y", "y"), {"n": 2, "open": 1})
    assert labels_of(asked, pa.chunked_array([["y", "n"]])).merged == {}
