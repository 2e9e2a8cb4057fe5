"""A real, small model: its package opens, its card tells the truth, MLflow reads its run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.errors import Invalid, Unavailable
from penstock.packages.format import open_package
from penstock.packages.parts import Curves
from penstock.testing.broker import free_ports
from penstock.testing.postgres import database_settings

pytestmark = pytest.mark.process("unhurried")  # torch and MLflow take seconds to load


@pytest.fixture
def package(loans: Any) -> Any:
    from penstock.modelkit.build import build
    from penstock_trainer.packaging import package as write

    loans.spec["trainer"]["fairness"] = {"notion": "equalized_odds", "by": "sex", "strength": 0.1}
    training_set = loans.training_set()
    built = build(loans.pipeline, loans.folder / "train.parquet", loans.folder / "validation.parquet")
    directory = loans.folder / "package"
    return open_package(
        directory,
        write(
            directory,
            loans.pipeline,
            training_set,
            built,
            run_id="01A",
            pipeline_number=3,
            chosen={"trainer.batch_size": 32},
            because="there are 400 rows",
        ),
    )


def test_the_package_holds_what_was_trained(package: Any, loans: Any) -> None:
    package.check()
    assert package.pipeline == loans.pipeline
    assert package.training_set.audit.uri.endswith("audit.parquet")
    assert package.metrics["auroc"] > 0.6
    assert [point.epoch for point in package.curves.points] == [1, 2, 3]
    assert package.signature.classes == ("false", "true")
    assert package.explanation is None, "a network shows nothing"


def test_the_card_states_facts_and_what_nobody_stated(package: Any) -> None:
    card = package.model_card
    for line in (
        "# loans",
        "Predicts `default` (binary, from `applications.defaulted`) for one applicant.",
        "Made by run `01A` of the pipeline file's number 3",
        "400 rows to train on, 100 to validate, 50 for the audit alone; divided by applicant.",
        "`loans.applications.events.v1`/0: 0 to 550",
        "| `purpose` | `applications.purpose` (category) | embedding |",
        "- Why `mlp`: there are 400 rows.",
        "- Chosen by the number of training rows: `trainer.batch_size` 32.",
        "Protected fields: `applications.sex`.",
        "penalty on equalized odds by `sex`, strength 0.1",
        "*Not stated. Whoever owns this pipeline should say.*",
    ):
        assert line in card
    assert (
        "`applications.sex` (category" not in card.split("## What it looks at")[1].split("##")[0]
    )  # no input


def test_a_model_without_epochs_has_curves_without_points(loans: Any) -> None:
    """A family may solve its problem in one step."""
    from penstock.modelkit.build import build
    from penstock_trainer.packaging import package as write

    training_set = loans.training_set()
    built = build(loans.pipeline, loans.folder / "train.parquet", loans.folder / "validation.parquet")
    directory = loans.folder / "package"
    solved = replace(built, history=())
    digest = write(directory, loans.pipeline, training_set, solved, run_id="01A", pipeline_number=3)
    assert open_package(directory, digest).curves == Curves(metric="auroc", points=())


def test_the_card_of_trees_says_what_they_are_and_what_they_cannot(loans: Any) -> None:
    from penstock.modelkit.build import build
    from penstock_trainer.card import model_card
    from penstock_trainer.packaging import package as write

    loans.spec["model"] = {"type": "boosted_trees", "monotone": {"income": "decreasing"}}
    loans.spec |= {"purpose": "Whom to ask for papers.", "owner": "Ada", "contact": "loans@bank.example"}
    training_set = loans.training_set()
    built = build(loans.pipeline, loans.folder / "train.parquet", loans.folder / "validation.parquet")
    card = model_card(loans.pipeline, training_set, built, run_id="01A", pipeline_number=3)
    for line in (
        r"- Type: boosted trees, \d+ of at most 31 leaves, never rising with `income`\. All",
        r"## Intended use\n\nWhom to ask for papers\.\n\nOwner: Ada\n\nContact: loans@bank\.example\n",
        r"- Trained 3 of at most 3 epochs of 10 rounds, learning rate 0\.\d+, seed 7\.",
        r"- Between LightGBM and the graph in ONNX Runtime: at most \d",
        r"\| feature \| from \| treated \| share of the gain \|\n\|---\|---\|---\|---\|\n",
        r"\| `income` \| `applications.income` \(number\) \| as it is \| \d+\.\d% \|",
        r"\| `purpose` \| `applications.purpose` \(category\) \| one hot \| \d+\.\d% \|",
        r"beyond the least and the greatest value of training it stays what it is there",
    ):
        assert re.search(line, card), f"{line}\n{card}"
    directory = loans.folder / "package"
    digest = write(directory, loans.pipeline, training_set, built, run_id="01A", pipeline_number=3)
    package = open_package(directory, digest)
    pace = package.curves.pace
    assert pace is not None
    assert (pace.workers, pace.bottleneck) == (1, "computes 100% of the time")
    shown = package.explanation
    assert shown is not None
    assert shown.gain.keys() == {"income", "purpose"}


TOLD = {
    "run_id": "01A",
    "pipeline": "loans",
    "started_at": 1_700_000_000.0,
    "ended_at": 1_700_000_009.0,
    "parameters": {"trainer.epochs": "3"},
    "metrics": {"auroc": 0.9, "validation_loss": 0.35},
    "epochs": [
        {
            "number": number,
            "train_loss": 1 / number,
            "validation_loss": 1.1 / number,
            "validation_metric": 0.8,
            "metric": "auroc",
            "learning_rate": 1e-3,
            "elapsed_s": float(number),
            **({"pace": {"rows_per_s": 500.0 * number}} if number > 1 else {}),  # 1: of a release before
        }
        for number in (1, 2, 3)
    ],
    "tags": {"penstock.run": "01A", "penstock.digest": "sha256:d"},
}


def test_mlflow_reads_the_run_back(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite and on PostgreSQL, by the settings that a service has."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("PGPASSWORD", "")  # what the job's process sets for itself goes with the test
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    for name, value in database_settings("trainer", database, tmp_path).items():
        monkeypatch.setenv(name.replace("DATABASE", "TRACKING") if name.endswith("DATABASE") else name, value)
    from mlflow.tracking import MlflowClient

    from penstock_trainer.settings import Settings
    from penstock_trainer.tracking import tell

    settings = Settings()
    identity = tell(TOLD, settings)
    assert tell(TOLD, settings) == identity  # told again, written once
    client = MlflowClient(tracking_uri=database)  # as a user opens it
    experiment = client.get_experiment_by_name("loans")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "01A"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"trainer.epochs": "3"}
    assert run.data.metrics["auroc"] == 0.9
    assert run.data.metrics["plain_validation_loss"] == 0.35  # no point of the curve
    assert run.data.tags["penstock.digest"] == "sha256:d"
    curve = client.get_metric_history(identity, "validation_loss")
    assert [(point.step, point.value) for point in curve] == [
        (1, 1.1),
        (2, 0.55),
        (3, pytest.approx(1.1 / 3)),
    ]
    paces = client.get_metric_history(identity, "pace/rows_per_s")
    assert [(point.step, point.value) for point in paces] == [(2, 1000), (3, 1500)]


def test_a_store_that_is_away_may_be_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    from penstock.runtime.settings import Platform
    from penstock_trainer.settings import Settings
    from penstock_trainer.tracking import tell

    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 1)  # MLflow itself tries for two minutes
    monkeypatch.setenv("PGPASSWORD", "")
    (tmp_path / "secret").write_text("tell-nobody")
    [port] = free_ports(1)
    url = f"postgresql+psycopg://penstock@127.0.0.1:{port}/mlflow"
    settings = Settings(
        platform=Platform(home=tmp_path), tracking=url, database_password_file=tmp_path / "secret"
    )
    with pytest.raises(
        Unavailable, match=f"{port}/mlflow: MLflow's store cannot be opened: .*refused"
    ) as caught:
        tell(TOLD, settings)
    assert "tell-nobody" not in str(caught.value)


def test_a_password_in_the_stores_url_is_refused() -> None:
    from penstock_trainer.settings import Settings

    with pytest.raises(Invalid, match="PENSTOCK_TRAINER__TRACKING: a password in a URL"):
        Settings(tracking="postgresql+psycopg://penstock:tell-nobody@postgres/mlflow")


def test_an_imports_card_says_of_which_rows_its_figures_are_where_they_are_not_all(loans: Any) -> None:
    from penstock.modelkit.build import build
    from penstock.packages.parts import Origin
    from penstock_trainer.imported_card import imported_card

    training_set = loans.training_set()
    built = build(loans.pipeline, loans.folder / "train.parquet", loans.folder / "validation.parquet")
    origin = Origin(imported_by="ada", imported_from="a.onnx", original_digest="sha256:" + "a" * 64)
    whole, some = (
        imported_card(loans.pipeline, training_set, one, origin, run_id="01A", pipeline_number=3)
        for one in (built, replace(built, sampled=400_000, judged=300_000))
    )
    assert "seeded sample" not in whole
    assert "- The reference profile describes a seeded sample of 400,000 of its rows." in some
    assert "- Figures and threshold are of a seeded sample of 300,000 validation rows." in some


def test_the_card_says_of_which_rows_features_were_learned_where_they_are_not_all(loans: Any) -> None:
    from penstock.modelkit.build import build
    from penstock_trainer.card import model_card

    training_set = loans.training_set()
    built = build(loans.pipeline, loans.folder / "train.parquet", loans.folder / "validation.parquet")
    cards = [
        model_card(loans.pipeline, training_set, one, run_id="01A", pipeline_number=3)
        for one in (built, replace(built, sampled=400_000))
    ]
    assert ["seeded sample of 400,000 of them" in card for card in cards] == [False, True]
    assert "With probability 99% a quantile's rank is off by less than 0.26%" in cards[1]


def test_the_card_says_how_a_text_is_read_and_the_package_what_speaks_for_the_answer(loans: Any) -> None:
    from penstock.modelkit.build import build
    from penstock_trainer.card import model_card
    from penstock_trainer.packaging import package as write

    loans.spec["sources"]["applications"]["fields"]["purpose"] = {"type": "text"}
    loans.spec["features"]["purpose"] |= {"encode": "text_cnn", "filters": 4, "widths": [1, 2]}
    training_set = loans.training_set()
    built = build(loans.pipeline, loans.folder / "train.parquet", loans.folder / "validation.parquet")
    card = model_card(loans.pipeline, training_set, built, run_id="01A", pipeline_number=3)
    for line in (
        "(text) | text cnn, 4 filters over 1, 2 words, of each its strongest answer (Kim 2014) |",
        r"- Of `purpose` it reads the first 256 words and knows \d; all others are one unknown word.",
    ):
        assert re.search(re.escape(line).replace(r"\\d", r"\d"), card), f"{line}\n{card}"
    directory = loans.folder / "package"
    digest = write(directory, loans.pipeline, training_set, built, run_id="01A", pipeline_number=3)
    shown = open_package(directory, digest).explanation
    assert shown is not None
    (picture,) = shown.pictures
    assert picture.title == "Words of `purpose` for and against the logit of `default` = true"
