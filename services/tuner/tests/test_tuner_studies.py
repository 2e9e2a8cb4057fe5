"""Studies on a real database: what the job says becomes rows and facts, each once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from penstock.contracts.errors import Conflict, Invalid, Kind, NotFound
from penstock.contracts.events import (
    Event,
    TrainingRunRequested,
    TuningStudyCanceled,
    TuningStudyCompleted,
    TuningStudyFailed,
    TuningStudyRequested,
    TuningStudyStarted,
    TuningTrialEnded,
    decode,
)
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.patience import Awaited
from penstock.runtime.readiness import Readiness
from penstock.runtime.store import assert_migrations_match
from penstock.runtime.tables import JobRow, OutboxRow
from penstock.testing import lending
from penstock.testing.stores import new_store
from penstock.tuner.v1 import tuner_pb2
from penstock_tuner import peers
from penstock_tuner import store as rows
from penstock_tuner.servicer import changed
from penstock_tuner.store import Tables
from penstock_tuner.studies import JOB, Studies

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGEST = "sha256:" + "d" * 64
BEGINS = {
    "training_set": lending.training_set().model_dump(mode="json"),
    "tuner": {"budget": {"trials": 3}},
    "spent_s": 4.0,
}


class Desk:
    def __init__(self, folder: Path, database: str) -> None:
        self.store = new_store(database, "penstock_tuner.migrations", clock=lambda: NOW)
        self.readiness = Readiness(lambda: NOW)
        self.folder = folder / "studies"
        self.studies = Studies(lambda: NOW, self.folder, Awaited(self.readiness))

    def wish(self, study_id: str = "01A", pipeline: str = "loans") -> TuningStudyRequested:
        return TuningStudyRequested(
            study_id=study_id,
            pipeline=pipeline,
            pipeline_number=3,
            requested_at=NOW,
            requested_by="ann",
        )

    def request(self, wish: TuningStudyRequested, key: str = "") -> str:
        with self.store.transaction() as effect:
            return self.studies.request(wish, key, effect)

    def accept(self, wish: TuningStudyRequested) -> None:
        with self.store.transaction() as effect:
            self.studies.accept(wish, effect)

    def says(self, *messages: dict[str, Any], job: str = "01A.0") -> None:
        for message in messages:
            with self.store.transaction() as effect:
                self.studies.progressed(job, message, effect)

    def completes(self, best: int | None, job: str = "01A.0") -> None:
        result = {"best": best, "rule": "the least loss", "looks": 10, "conclusion": "so it is"}
        result["importance"] = {"model.type": 0.75}
        with self.store.transaction() as effect:
            self.studies.completed(job, result, effect)

    def cancel(self, study_id: str = "01A") -> None:
        with self.store.transaction() as effect:
            self.studies.cancel(study_id, "ben", effect)

    def extend(self, trials: int, time_s: float = 0.0) -> None:
        with self.store.transaction() as effect:
            self.studies.extend("01A", trials, time_s, effect)

    @property
    def study(self) -> rows.StudyRow:
        with self.store.snapshot() as session:
            return rows.study(session, "01A")

    @property
    def trials(self) -> list[tuple[int, str]]:
        with self.store.snapshot() as session:
            return [(trial.number, trial.state) for trial in rows.trials(session, "01A")]

    @property
    def jobs(self) -> list[tuple[str, str, str]]:
        with self.store.snapshot() as session:
            found = session.scalars(select(JobRow).order_by(JobRow.id))
            return [(row.kind, row.job_id, row.state) for row in found]

    @property
    def told(self) -> list[Event]:
        with self.store.snapshot() as session:
            found = session.scalars(select(OutboxRow).order_by(OutboxRow.id))
            events = [decode(row.event_type, row.value) for row in found]
        return [event for event in events if event]


@pytest.fixture
def desk(tmp_path: Path, database: str) -> Iterator[Desk]:
    made = Desk(tmp_path, database)
    yield made
    made.store.close()


def begins(number: int) -> dict[str, Any]:
    overrides = {"trainer.epochs": number} if number else {}
    return {
        "started": {"number": number, "choices": overrides, "overrides": overrides, "family": "mlp"},
        "spent_s": 5.0 + number,
    }


def ends(number: int, best: int | None = 0, state: str = "complete", **figures: Any) -> dict[str, Any]:
    measured = {
        "objectives": [1.0 / (number + 1)],
        "metrics": {"train_loss": 0.2},
        "weights": DIGEST,
        "epochs": 3,
        "seconds": 1.5,
        "processor_s": 1.25,
        "memory": 1 << 20,
    }
    told = measured if state == "complete" else {"objectives": None}
    return {
        "ended": {"number": number, "state": state, **told, **figures},
        "best": best,
        "spent_s": 6.0 + number,
    }


def test_migrations_make_the_tables(desk: Desk) -> None:
    assert_migrations_match(desk.store, Tables.metadata)


def test_from_wish_to_run(desk: Desk) -> None:
    wish = desk.wish()
    desk.request(wish)
    desk.accept(wish)  # it comes back from Kafka
    assert desk.jobs == [(JOB, "01A.0", "queued")]
    desk.says({"attempt": 1}, BEGINS, begins(0), begins(1), ends(0, 0))
    assert (desk.study.state, desk.study.best, desk.study.spent_s) == ("searching", 0, 6.0)
    assert desk.trials == [(0, "complete"), (1, "running")]
    desk.says({"attempt": 1}, BEGINS, begins(1), ends(1, 1))  # after a crash what ran is told again
    desk.says(ends(1, 1))
    assert desk.study.attempts == 2
    desk.completes(1)
    assert [type(event) for event in desk.told] == [
        TuningStudyRequested,
        TuningStudyStarted,
        TuningTrialEnded,
        TuningTrialEnded,
        TrainingRunRequested,
        TuningStudyCompleted,
    ]
    run, completed = desk.told[-2:]
    assert isinstance(run, TrainingRunRequested)
    assert isinstance(completed, TuningStudyCompleted)
    assert (run.training_set_id, run.pipeline_number, run.overrides) == ("01A", 3, {"trainer.epochs": 1})
    assert run.study is not None
    assert (run.study.study_id, run.study.trial, run.study.weights) == ("01A", 1, DIGEST)
    assert (run.study.trials, run.study.looks, run.study.rule) == (2, 10, "the least loss")
    assert completed.run_id == run.run_id == desk.study.run_id
    assert (desk.study.looks, desk.study.rule) == (10, "the least loss")
    assert (completed.best, completed.trials, desk.study.state) == (1, 2, "completed")


def test_the_files_own_values_as_the_best_ask_for_no_run(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, BEGINS, begins(0), ends(0, 0))
    desk.completes(0)
    completed = desk.told[-1]
    assert isinstance(completed, TuningStudyCompleted)
    assert (completed.best, completed.run_id) == (0, None)
    assert not [event for event in desk.told if isinstance(event, TrainingRunRequested)]


def test_a_canceled_study_keeps_what_ended_and_goes_on_when_it_is_extended(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, BEGINS, begins(0), begins(1), ends(0, 0))
    with pytest.raises(Conflict, match="has not ended"):
        desk.extend(2)
    (desk.folder / "01A").mkdir(parents=True)
    desk.cancel()
    desk.cancel()
    assert [type(event) for event in desk.told].count(TuningStudyCanceled) == 1
    assert (desk.study.state, desk.trials) == ("canceled", [(0, "complete")])
    assert not (desk.folder / "01A").exists()
    desk.says(ends(1, 1))  # a process that is being killed still speaks
    assert desk.study.best == 0
    with pytest.raises(Invalid, match="nothing"):
        desk.extend(0)
    desk.extend(2)
    assert desk.jobs[-1] == (JOB, "01A.1", "queued")
    assert desk.study.requested.tuner == {"budget": {"trials": 3}}
    desk.says({"attempt": 1}, BEGINS, begins(1), ends(1, 1), job="01A.1")
    desk.completes(1, job="01A.1")
    assert desk.study.state == "completed"
    with pytest.raises(Conflict, match="completed already"):
        desk.cancel()
    assert [type(event) for event in desk.told].count(TuningStudyStarted) == 1


def test_an_extension_that_finds_nothing_better_asks_for_no_second_run(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, BEGINS, begins(0), ends(0, 0), begins(1), ends(1, 1))
    desk.completes(1)
    first = desk.study.run_id
    assert first
    desk.extend(1)
    desk.says({"attempt": 1}, begins(2), ends(2, 1), job="01A.1")
    desk.completes(1, job="01A.1")
    assert (desk.study.run_id, desk.study.run_trial) == (first, 1)
    assert desk.study.conclusion == f"so it is; run {first} has its values already"
    desk.extend(1)
    desk.says({"attempt": 1}, begins(3), ends(3, 3), job="01A.2")
    desk.completes(3, job="01A.2")
    assert desk.study.run_trial == 3
    asked = [event.run_id for event in desk.told if isinstance(event, TrainingRunRequested)]
    assert asked == [first, desk.study.run_id]
    desk.extend(1)
    desk.completes(0, job="01A.3")  # with several objectives another front may have another choice
    assert (desk.study.run_id, desk.study.run_trial) == (None, None)


def test_changes_are_the_trials_that_are_not_as_they_were_told() -> None:
    running, ended = (tuner_pb2.Trial(number=1, state=state, losses=[0.5]) for state in (1, 2))
    other = tuner_pb2.Trial(number=0, losses=[0.25])
    told, study = (tuner_pb2.Study(study_id="01A", trials=[other, one]) for one in (running, ended))
    assert [*changed(study, told).trials] == [ended]
    assert len(study.trials) == 2
    assert changed(told, told).study_id == "01A"


def test_a_failed_study_says_why(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, BEGINS, begins(0), ends(0, None, "failed", failure="one class"))
    with desk.store.transaction() as effect:
        desk.studies.failed("01A.0", Kind.INVALID, "none ended well", "Change the space", effect)
    ended, failed = desk.told[-2:]
    assert isinstance(ended, TuningTrialEnded)
    assert isinstance(failed, TuningStudyFailed)
    assert (ended.state, ended.reason, ended.values) == ("failed", "one class", ())
    assert (failed.kind, failed.reason, failed.remedy) == ("invalid", "none ended well", "Change the space")
    assert (desk.study.state, desk.study.failure) == ("failed", "none ended well")


def test_a_key_stands_for_one_study(desk: Desk) -> None:
    assert desk.request(desk.wish(), "k") == desk.request(desk.wish("01B"), "k") == "01A"
    with pytest.raises(Conflict, match="`loans`"):
        desk.request(desk.wish("01C", "prices"), "k")
    with pytest.raises(Invalid, match="study_id"):
        desk.accept(desk.wish("../01D"))
    with pytest.raises(Invalid, match="trials"):
        desk.accept(desk.wish("01D").model_copy(update={"tuner": {"budget": {"trials": "many"}}}))
    with pytest.raises(NotFound, match="penstock study list"):
        desk.cancel("01Z")


def test_a_study_says_what_it_waits_for(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, {"waits_for": "feature_store", "why": "refused"})
    assert [wait.thing for wait in desk.readiness.waiting] == ["feature_store"]
    desk.says({"has": "feature_store"})
    assert not desk.readiness.waiting


def test_a_start_removes_the_files_of_studies_that_have_ended(desk: Desk) -> None:
    desk.request(desk.wish())
    for name in ("01A", "01Z"):
        (desk.folder / name).mkdir(parents=True)
    with desk.store.snapshot() as session:
        desk.studies.sweep(session)
    assert [folder.name for folder in desk.folder.iterdir()] == ["01A"]


def test_a_studys_cost_holds_its_trials_also_where_they_were_killed_with_it(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, BEGINS, begins(0), begins(1), ends(0, 0), ends(1, 0))
    desk.cancel()
    assert desk.study.cost is not None
    assert desk.study.cost.processor_s == 2.5


def test_a_choice_whose_end_was_not_stored_is_told(desk: Desk) -> None:
    desk.request(desk.wish())
    desk.says({"attempt": 1}, BEGINS, begins(0), begins(1), ends(0, 0))
    with pytest.raises(Conflict, match="trial 1, which was chosen, could not be stored"):
        desk.completes(1)


async def test_a_study_of_a_file_without_a_section_may_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def study(*_: object) -> tuner_pb2.Study:
        return tuner_pb2.Study(pipeline="loans", pipeline_number=3, tuner_json="")

    async def spec(*about: object) -> dict[str, Any]:
        asked.append(about[-1])
        return lending.spec()

    monkeypatch.setattr(peers, "_study", study)
    monkeypatch.setattr(peers, "spec_of", spec)
    unused: Any = None
    assert await peers.known(unused, "01A", Pipeline.model_validate(lending.spec())) == []
    assert asked == [{}]
