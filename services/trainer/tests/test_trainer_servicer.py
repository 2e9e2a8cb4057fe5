"""The trainer's answers: an odd request ends in a sentence, an odd row hides no other."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import grpc
import pytest

from penstock.contracts.errors import Invalid
from penstock.contracts.events import TrainingRunRequested
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.patience import Awaited
from penstock.runtime.readiness import Readiness
from penstock.runtime.store import Store
from penstock.testing.packages import NOW
from penstock.testing.threads import in_a_thread
from penstock.trainer.v1 import trainer_pb2 as pb
from penstock_trainer.runs import Runs
from penstock_trainer.servicer import MAX_OVERRIDES, Servicer, _overrides


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 10_000, '{"trainer": ' * 1_000, '{"trainer.epochs": ' + "9" * 5_000 + "}", "[]"],
    ids=["half", "nested", "nested keys", "digits", "no object"],
)
def test_overrides_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="overrides_json: is no JSON"):
        _overrides(text)


def test_overrides_are_bounded() -> None:
    with pytest.raises(Invalid, match="more than 16,384 characters"):
        _overrides(" " * (MAX_OVERRIDES + 1))


async def test_a_run_that_cannot_be_shown_hides_no_other(tmp_path: Path) -> None:
    database = tmp_path / "trainer.db"
    store = Store.open(f"sqlite:///{database}", migrations="penstock_trainer.migrations")
    runs = Runs(lambda: NOW, tmp_path, Awaited(Readiness(lambda: NOW)), Keys(tmp_path / "keys"))
    with in_a_thread(store.transaction()) as effect:
        for run_id in ("01A", "01B", "01C", "01D"):
            wish = TrainingRunRequested(
                run_id=run_id,
                pipeline="loans",
                pipeline_number=1,
                reason="requested",
                requested_at=NOW,
                requested_by="ann",
            )
            runs.request(wish, "", effect)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE runs SET pipeline_number = ? WHERE run_id = '01B'", (2**40,))
        connection.execute("UPDATE runs SET training_set = '{}' WHERE run_id = '01C'")
    async with grpc.aio.insecure_channel("127.0.0.1:1") as nobody:
        answer = await Servicer(runs, store, nobody, Artifacts(f"file://{tmp_path}")).ListRuns(
            pb.ListRunsRequest(), None
        )  # type: ignore[arg-type]
    assert [run.run_id for run in answer.runs] == ["01D", "01A"]
    store.close()
