"""Runs on a real database: what the job says becomes rows and facts, each once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from penstock.contracts.errors import Conflict, Invalid, Kind, NotFound, Tampered
from penstock.contracts.events import (
    Artifact,
    Cost,
    Event,
    Imported,
    StudyReference,
    TrainingRunCanceled,
    TrainingRunCompleted,
    TrainingRunFailed,
    TrainingRunProgressed,
    TrainingRunRequested,
    TrainingRunStarted,
    decode,
)
from penstock.packages.facts import verify_fact
from penstock.packages.keys import Keys
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.patience import Awaited
from penstock.runtime.readiness import Readiness
from penstock.runtime.store import assert_migrations_match
from penstock.runtime.tables import JobRow, OutboxRow
from penstock.testing.stores import new_store
from penstock.testing.wait import until_async
from penstock_trainer import store as rows
from penstock_trainer.leftovers import remove_leftovers
from penstock_trainer.pace import Pace
from penstock_trainer.receiving import receive
from penstock_trainer.runs import JOB, TRACKING_JOB, Runs
from penstock_trainer.store import Tables

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STUDY = StudyReference(
    study_id="01S", trial=4, weights="sha256:" + "a" * 64, trials=9, looks=9, rule="the least loss"
)


class Desk:
    def __init__(self, folder: Path, database: str) -> None:
        self.keys = Keys(folder / "home" / "keys")
        self.keys.ensure()
        self.store = new_store(database, "penstock_trainer.migrations", clock=lambda: NOW)
        self.readiness = Readiness(lambda: NOW)
        self.folder = folder / "runs"
        self.runs = Runs(lambda: NOW, self.folder, Awaited(self.readiness), self.keys)

    def wish(self, run_id: str = "01A", pipeline: str = "loans") -> TrainingRunRequested:
        return TrainingRunRequested(
            run_id=run_id,
            pipeline=pipeline,
            pipeline_number=3,
            reason="requested",
            requested_at=NOW,
            requested_by="ann",
        )

    def request(self, wish: TrainingRunRequested, key: str = "") -> str:
        with self.store.transaction() as effect:
            return self.runs.request(wish, key, effect)

    def accept(self, wish: TrainingRunRequested) -> None:
        with self.store.transaction() as effect:
            self.runs.accept(wish, effect)

    def says(self, message: dict[str, Any], run_id: str = "01A") -> None:
        with self.store.transaction() as effect:
            self.runs.progressed(run_id, message, effect)

    def cancel(self, run_id: str = "01A") -> None:
        with self.store.transaction() as effect:
            self.runs.cancel(run_id, "ben", effect)

    @property
    def waiting(self) -> dict[str, str]:
        """What `penstock status` would show."""
        return {wait.thing: wait.why for wait in self.readiness.waiting}

    @property
    def run(self) -> rows.RunRow:
        with self.store.snapshot() as session:
            return rows.run(session, "01A")

    @property
    def jobs(self) -> list[tuple[str, str, str]]:
        with self.store.snapshot() as session:
            return [
                (row.kind, row.job_id, row.state)
                for row in session.scalars(select(JobRow).order_by(JobRow.id))
            ]

    @property
    def told(self) -> list[Event]:
        with self.store.snapshot() as session:
            found = [
                decode(row.event_type, row.value)
                for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id))
            ]
        return [event for event in found if event]


@pytest.fixture
def desk(tmp_path: Path, database: str) -> Iterator[Desk]:
    made = Desk(tmp_path, database)
    yield made
    made.store.close()


def epoch(number: int) -> dict[str, Any]:
    return {
        "epoch": {
            "number": number,
            "epochs": 3,
            "train_loss": 0.5,
            "validation_loss": 0.4,
            "validation_metric": 0.9,
            "metric": "auroc",
            "learning_rate": 1e-3,
            "elapsed_s": float(number),
            "rows": 400,
            "took_s": 2.0,
            "data_s": 0.5,
            "communication_s": 0.0,
            "step_s": 0.25,
        }
    }


def result() -> dict[str, Any]:
    package = {"uri": "file:///packages/a.tar", "digest": "sha256:" + "a" * 64, "size": 3}
    return {
        "package": package,
        "digest": "sha256:" + "d" * 64,
        "metrics": {"auroc": 0.9},
        "parameters": {"model.type": "mlp"},
    }


def test_migrations_make_the_tables(desk: Desk) -> None:
    assert_migrations_match(desk.store, Tables.metadata)


def test_a_further_attempt_keeps_the_pace_of_the_epochs_that_are_known(desk: Desk, loans: Any) -> None:
    desk.request(desk.wish())
    begins = {"training_set": loans.training_set().model_dump(mode="json"), "epochs": 3}
    for attempt in (1, 2):
        for message in ({"attempt": attempt}, begins, {"workers": 2, "because": "as measured"}, epoch(1)):
            desk.says(message)
        assert desk.run.pace is not None
        assert (desk.run.pace.because, desk.run.pace.rows_per_s) == ("as measured", 200.0)


def test_from_wish_to_package(desk: Desk, loans: Any) -> None:
    training_set = loans.training_set().model_dump(mode="json")
    wish = desk.wish().model_copy(update={"study": STUDY})
    desk.request(wish)
    assert desk.jobs == [(JOB, "01A", "queued")]  # in the transaction that recorded the wish
    desk.accept(wish)
    desk.accept(wish)
    assert desk.jobs == [(JOB, "01A", "queued")]
    choices = {"chosen": {"model.type": "mlp", "model.hidden": [8]}, "chosen_because": "2 rows"}
    begins = {"training_set": training_set, "epochs": 3, **choices}
    for message in ({"attempt": 1}, begins, {"workers": 2, "because": "as measured"}, epoch(1), epoch(2)):
        desk.says(message)
    assert (desk.run.state, desk.run.epochs_planned, desk.run.attempts) == ("training", 3, 1)
    for message in (
        {"attempt": 2},
        begins,
        epoch(1),
        epoch(2),
        epoch(3),
        {"stage": "packaging"},
    ):
        desk.says(message)  # after a crash everything is told again
    assert (desk.run.state, desk.run.attempts) == ("packaging", 2)
    with desk.store.transaction() as effect:
        desk.runs.completed("01A", result(), effect)
    assert desk.run.state == "completed"
    pace = Pace(workers=2, because="as measured", rows_per_s=200.0, step_s=0.25, data_share=0.25)
    assert desk.run.pace == pace
    with desk.store.snapshot() as session:
        assert [row.pace for row in rows.epochs(session, "01A")] == [pace] * 3
        tracked = session.scalars(select(JobRow).where(JobRow.kind == TRACKING_JOB)).one()
        assert [told["pace"]["compute_share"] for told in tracked.payload["epochs"]] == [0.75] * 3
    assert [type(event) for event in desk.told] == [
        TrainingRunRequested,
        TrainingRunStarted,
        *[TrainingRunProgressed] * 3,
        TrainingRunCompleted,
    ]
    assert desk.jobs[-1] == (TRACKING_JOB, "01A", "queued")
    started, completed = desk.told[1], desk.told[-1]
    assert isinstance(started, TrainingRunStarted)
    assert isinstance(completed, TrainingRunCompleted)
    for event in (started, completed):
        verify_fact(event, desk.keys.trust())
    assert started.model_dump(include=choices.keys()) == choices
    assert (desk.run.chosen, desk.run.chosen_because) == tuple(choices.values())
    other = started.model_copy(update={"chosen_because": "a whim"})
    with pytest.raises(Tampered, match="other than what was signed"):
        verify_fact(other, desk.keys.trust())
    assert completed.study == STUDY
    with pytest.raises(Tampered, match="other than what was signed"):
        verify_fact(completed.model_copy(update={"study": None}), desk.keys.trust())
    assert completed.training_set.fingerprint == training_set["fingerprint"]
    assert completed.pipeline_number == 3
    assert completed.cost == desk.run.cost == Cost(), "no job has run here"


def test_a_run_that_began_on_an_unsigned_set_goes_on_with_the_signed_one(desk: Desk, loans: Any) -> None:
    """An upgrade killed it; the feature store signs the set that it made before."""
    desk.request(desk.wish())
    made = loans.training_set()
    with desk.store.transaction() as effect:
        run = rows.run(effect.session, "01A")
        run.state, run.training_set = "training", made.model_copy(update={"evidence": None})
    desk.says({"training_set": made.model_dump(mode="json"), "epochs": 3})
    with desk.store.transaction() as effect:
        desk.runs.completed("01A", result(), effect)
    completed = desk.told[-1]
    assert isinstance(completed, TrainingRunCompleted)
    verify_fact(completed, desk.keys.trust())


def test_a_wish_from_the_feature_stores_trigger(desk: Desk) -> None:
    desk.accept(desk.wish())
    assert desk.run.state == "requested"
    assert desk.jobs == [(JOB, "01A", "queued")]
    assert desk.told == []  # it is on the topic already


@pytest.mark.parametrize("run_id", ["../../etc", "", "a b", ".", "x" * 33])
def test_an_id_that_names_no_folder_is_refused(desk: Desk, run_id: str) -> None:
    with pytest.raises(Invalid, match="cannot name a run"):
        desk.accept(desk.wish(run_id))


def test_so_is_one_of_a_training_set_or_a_study(desk: Desk) -> None:
    study = STUDY.model_copy(update={"study_id": "a b"})
    for change, thing in (({"training_set_id": "../x"}, "training set"), ({"study": study}, "study")):
        with pytest.raises(Invalid, match=f"cannot name a {thing}"):
            desk.accept(desk.wish().model_copy(update=change))
    assert desk.jobs == []


def test_a_key_stands_for_one_run(desk: Desk) -> None:
    assert desk.request(desk.wish("01A"), "k") == "01A"
    assert desk.request(desk.wish("01B"), "k") == "01A"
    with pytest.raises(Conflict, match="the key stands for run 01A of `loans`"):
        desk.request(desk.wish("01C", "other"), "k")
    assert len(desk.told) == 1


def test_a_failure_says_what_to_change(desk: Desk) -> None:
    desk.accept(desk.wish())
    with desk.store.transaction() as effect:
        desk.runs.failed("01A", Kind.INVALID, "one class only", "Publish the other", effect)
    (failed,) = desk.told
    assert isinstance(failed, TrainingRunFailed)
    assert (failed.kind, failed.reason, failed.remedy) == ("invalid", "one class only", "Publish the other")
    with pytest.raises(Conflict, match="failed already"):
        desk.cancel()


def test_cancel(desk: Desk) -> None:
    desk.accept(desk.wish())
    desk.says({"attempt": 1})
    work = desk.folder / "01A"
    work.mkdir(parents=True)
    desk.cancel()
    desk.cancel()
    assert desk.run.state == "canceled"
    assert desk.jobs == [(JOB, "01A", "canceled")]
    assert [type(event) for event in desk.told] == [TrainingRunCanceled]
    assert not work.exists()  # people's data
    desk.says(epoch(1))  # said before it was killed
    assert len(desk.told) == 1
    with pytest.raises(NotFound, match="no run `01X`"):
        desk.cancel("01X")


def test_canceled_before_it_was_accepted(desk: Desk) -> None:
    wish = desk.wish()
    desk.request(wish)
    desk.cancel()
    desk.accept(wish)
    assert desk.jobs == [(JOB, "01A", "canceled")]


def test_what_runs_wait_for_is_shown(desk: Desk) -> None:
    for run_id in ("01A", "01B"):
        desk.accept(desk.wish(run_id))
        desk.says({"waits_for": "feature_store", "why": f"away, run {run_id}"}, run_id)
    assert desk.waiting == {"feature_store": "away, run 01B"}
    desk.says({"has": "feature_store"}, "01B")
    assert "feature_store" in desk.waiting  # the other still waits
    desk.says({"attempt": 2}, "01A")
    assert desk.waiting == {}


def test_working_files_of_ended_runs_are_swept(desk: Desk) -> None:
    for run_id in ("01A", "01B"):
        desk.accept(desk.wish(run_id))
    desk.cancel("01A")
    for name in ("01A", "01B", "unknown"):
        (desk.folder / name).mkdir(parents=True)
    with desk.store.snapshot() as session:
        desk.runs.sweep(session)
    assert [folder.name for folder in desk.folder.glob("*")] == ["01B"]


def test_events_are_plain_json(desk: Desk) -> None:
    desk.request(desk.wish())
    with desk.store.snapshot() as session:
        (row,) = session.scalars(select(OutboxRow))
    assert json.loads(row.value)["run_id"] == "01A"
    assert row.key == "01A"


def imports(desk: Desk, run_id: str, graph: Artifact, *, fails: bool) -> None:
    said = {"run_id": run_id, "imported": Imported(graph=graph, name="model.onnx", by="ann")}
    desk.request(desk.wish().model_copy(update=said))
    if fails:
        with desk.store.transaction() as effect:
            desk.runs.failed(run_id, Kind.INVALID, "no graph", "Send another", effect)


def test_a_graph_that_became_no_package_leaves_the_artifact_store(desk: Desk, tmp_path: Path) -> None:
    """But for one that another run takes, and for what was never sent here."""
    artifacts = Artifacts(f"file://{tmp_path}/artifacts")

    async def sent(content: bytes) -> Artifact:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        return await receive(chunks(), "loans", artifacts)

    refused, again = (asyncio.run(sent(content)) for content in (b"refused", b"again"))
    elsewhere = artifacts.put_bytes("packages/one.tar", b"elsewhere")
    for run_id, graph in (("01A", elsewhere), ("01B", again), ("01C", refused)):
        imports(desk, run_id, graph, fails=True)
    imports(desk, "01D", again, fails=False)

    async def removed() -> None:
        task = asyncio.create_task(remove_leftovers(desk.store, artifacts))
        await until_async(
            lambda: not Path(refused.uri.removeprefix("file://")).exists(), within=10, what="it is gone"
        )
        task.cancel()

    asyncio.run(removed())
    assert artifacts.read(again) == b"again"
    assert artifacts.read(elsewhere) == b"elsewhere"
