"""A tuning study in a real store of MLflow's: its run, and one below it for each trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.tuner.v1 import tuner_pb2 as pb

pytestmark = pytest.mark.process("unhurried")  # MLflow takes seconds to import, and to make its tables

COMPLETE, FAILED, PRUNED = pb.Trial.STATE_COMPLETE, pb.Trial.STATE_FAILED, pb.Trial.STATE_PRUNED


def trial(number: int, *values: float, state: int = COMPLETE, **fields: Any) -> pb.Trial:
    choices = json.dumps({"mlp.model.hidden": [64, 32]} if number else {})
    made = pb.Trial(number=number, state=state, values=values, choices_json=choices, family="mlp", **fields)
    made.ended_at.FromSeconds(1_800_000_100 + number)
    return made


def study(*trials: pb.Trial, **fields: Any) -> pb.Study:
    made = pb.Study(study_id="01S", pipeline="loans", trials=trials, trials_ended=len(trials), **fields)
    made.requested_at.FromSeconds(1_800_000_000)
    made.ended_at.FromSeconds(1_800_000_200)
    return made


def test_a_study_and_what_it_was_extended_by_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    from penstock_trainer.settings import Settings
    from penstock_trainer.tracking import opened
    from penstock_trainer.tracking_studies import track_study

    first = [
        trial(0, 3.0, metrics={"validation_loss": 0.5, "equalized_odds_difference.sex": 0.25}),
        trial(1, state=FAILED, failure="one class"),
        trial(2, state=PRUNED),
        trial(3, state=pb.Trial.STATE_RUNNING),
    ]
    ended = study(
        *first[:3], best=0, conclusion="no better than yours: keep it", rule="the least loss", looks=5
    )
    settings = Settings()
    with opened(settings) as client:
        parent = track_study(client, study(*first, failure="its process died"), settings)
        assert client.get_run(parent).info.status == "FAILED"
        assert track_study(client, ended, settings) == parent
        longer = study(*first[:3], trial(3, 2.0), best=3, conclusion="trial 3 is the best", run_id="01R")
        longer.ended_at.FromSeconds(1_800_000_300)
        assert track_study(client, longer, settings) == parent

        experiment = client.get_experiment_by_name("loans").experiment_id
        runs = {run.info.run_name: run for run in client.search_runs([experiment])}
        assert sorted(runs) == ["study 01S", *(f"trial {number}" for number in range(4))]
        whole = runs.pop("study 01S")
        assert (whole.info.run_id, whole.info.status) == (parent, "FINISHED")
        assert {
            "trials": 4,
            "own_objective_0": 3.0,
            "chosen_objective_0": 2.0,
        }.items() <= whole.data.metrics.items()
        assert whole.data.tags["penstock.run"] == "01R"
        assert whole.data.tags["mlflow.note.content"] == "trial 3 is the best"
        assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
        assert [runs[f"trial {n}"].info.status for n in range(4)] == [
            "FINISHED",
            "FAILED",
            "KILLED",
            "FINISHED",
        ]
        own = runs["trial 0"].data
        assert own.metrics["equalized_odds_difference.sex"] == 0.25
        assert runs["trial 3"].data.params == {"family": "mlp", "mlp.model.hidden": "[64, 32]"}
        assert runs["trial 1"].data.tags["penstock.failure"] == "one class"
