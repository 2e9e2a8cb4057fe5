"""A run that repeats the winning trial of a study: on its training set, to the same weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.errors import Conflict
from penstock.contracts.events import Artifact, StudyReference, TrainingRunRequested
from penstock.contracts.overrides import overridden
from penstock.contracts.planning import planned
from penstock.packages.archive import unpack
from penstock.packages.format import open_package
from penstock.runtime.child import JobContext
from penstock.testing.lending import NOW
from penstock_trainer.job import run
from penstock_trainer.settings import Settings
from penstock_tuner.trials.trial import measure
from penstock_tuner.trials.workbench import Workbench

pytestmark = pytest.mark.process("unhurried")  # torch takes seconds to load

STUDY = "01STUDY"
CHOICES = {
    "mlp": {"model": {"type": "mlp", "hidden": [8], "dropout": 0.2}, "trainer.batch_size": 64},
    "boosted_trees": {"model": {"type": "boosted_trees", "num_leaves": 5}},
    "ensemble": {
        "model": {
            "type": "ensemble",
            "members": ["linear", {"type": "boosted_trees", "num_leaves": 5}],
            "trainers": [{"epochs": 2, "batch_size": 64}, {"epochs": 9}],
        }
    },
}


@pytest.fixture
def repeat(loans: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the job that a study's last request is; returns its result."""
    monkeypatch.setenv("PENSTOCK_HOME", str(loans.folder / "home"))
    monkeypatch.setenv("PENSTOCK_ARTIFACTS", loans.artifacts.root)
    for peer, address in loans.peers.items():
        monkeypatch.setenv(f"PENSTOCK_PEERS__{peer.upper()}", address)
    loans.start_registry()
    loans.start_feature_store()

    def repeated(overrides: dict[str, Any], study: StudyReference) -> dict[str, Any]:
        requested = TrainingRunRequested(
            run_id="01RUN",
            pipeline="loans",
            pipeline_number=3,
            reason="requested",
            overrides=overrides,
            requested_at=NOW,
            requested_by="ann",
            training_set_id=STUDY,
            study=study,
        )
        payload = requested.model_dump(mode="json")
        return run(JobContext("01RUN", "training", payload, 1, Settings(), io.StringIO()))

    return repeated


def study(weights: str) -> StudyReference:
    return StudyReference(
        study_id=STUDY, trial=4, weights=weights, trials=9, looks=54, rule="the lowest loss"
    )


@pytest.mark.parametrize("model", CHOICES)
def test_the_run_has_the_trials_weights(model: str, loans: Any, repeat: Any, tmp_path: Path) -> None:
    loans.training_set(STUDY)
    overrides = CHOICES[model]
    loans.spec["training"] = {"seed": 5}
    pipeline = planned(overridden(loans.spec, overrides), 400).pipeline
    parts = loans.folder / "train.parquet", loans.folder / "validation.parquet"
    (loans.folder / "audit.parquet").unlink()  # no trial sees it
    work = Workbench(folder=tmp_path / "study")
    work.fill(*parts, pipeline, 3)
    trial = measure(pipeline, work)

    loans.spec["training"]["workers"] = 2  # trials are trained by one, and so is what must equal them
    result = repeat(overrides, study(trial.weights))

    assert result["weights"] == trial.weights
    assert [request.id for request in loans.asked] == [STUDY]
    packed = loans.artifacts.fetch(Artifact.model_validate(result["package"]), tmp_path / "package.tar")
    unpack(packed, tmp_path / "package")
    package = open_package(tmp_path / "package", result["digest"])
    assert package.study == study(trial.weights)
    assert f"Found by tuning study `{STUDY}`: its trial 4 of 9, by the lowest loss." in package.model_card
    assert "54 evaluations on the validation rows" in package.model_card


def test_other_weights_than_the_trials_are_refused(repeat: Any) -> None:
    with pytest.raises(Conflict, match=f"not those of trial 4 of study {STUDY}") as refused:
        repeat(CHOICES["boosted_trees"], study("sha256:" + "0" * 64))
    assert "tune again" in str(refused.value.remedy)
