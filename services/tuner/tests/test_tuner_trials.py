from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.contracts.pipeline import Pipeline
from penstock.measures.scores import Scores
from penstock.modelkit.build import build
from penstock.testing import lending
from penstock_tuner.trials.folds import default_folds, fold_files, write_folds
from penstock_tuner.trials.losses import losses_by_group
from penstock_tuner.trials.trial import measure
from penstock_tuner.trials.workbench import Workbench

MODELS = {
    "mlp": {"type": "mlp", "hidden": [8], "dropout": 0.1},
    "boosted_trees": {"type": "boosted_trees", "num_leaves": 7},
}


def lend(model: str = "boosted_trees", **sections: Any) -> Pipeline:
    return lending.pipeline(model=MODELS[model], trainer={"epochs": 3, "early_stopping": None}, **sections)


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    """400 and 100 rows, two of each entity."""
    made = []
    for name, rows in (("train", 400), ("validation", 100)):
        table = lending.applications(name, rows)
        entities = pa.array([f"{name} {row // 2}" for row in range(rows)])
        made.append(
            lending.write_part(tmp_path / f"{name}.parquet", table.append_column("__entity", entities))
        )
    return made[0], made[1]


@pytest.fixture
def bench(parts: tuple[Path, Path], tmp_path: Path) -> Callable[..., Workbench]:
    def made(folds: int = 1) -> Workbench:
        work = Workbench(folder=tmp_path / f"study-{folds}")
        work.fill(*(shutil.copy(part, tmp_path / f"{part.stem}.copy") for part in parts), lend(), folds)
        return work

    return made


@pytest.mark.parametrize("model", MODELS)
def test_a_trial_is_a_run(model: str, parts: tuple[Path, Path], bench: Callable[..., Workbench]) -> None:
    pipeline, epochs = lend(model), []

    found = measure(pipeline, bench(), on_epoch=epochs.append)

    run = build(pipeline, *parts)
    assert found.weights == run.weights
    assert {name: found.metrics[name] for name in run.metrics if name != "threshold"} == {
        name: value for name, value in run.metrics.items() if name != "threshold"
    }
    assert found.epochs == len(epochs) == 3
    assert found.metrics["latency_us"] > 0
    assert 0 <= found.metrics["equalized_odds_difference.sex"] <= 1


def test_folds_leave_the_weights_and_measure_every_row(bench: Callable[..., Workbench]) -> None:
    once, folds = measure(lend(), bench()), []

    found = measure(lend(), bench(3), on_fold=folds.append)

    assert (found.weights, folds) == (once.weights, [0, 1, 2])
    assert found.metrics["auroc"] != once.metrics["auroc"]
    assert found.metrics["train_loss"] < found.metrics["validation_loss"]


def test_a_fold_has_whole_entities_and_its_share_of_each_label(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    write_folds(*parts, 5, tmp_path)
    written = [tuple(map(pq.read_table, pair)) for pair in fold_files(tmp_path)]

    for others, own in written:
        assert others.num_rows + own.num_rows == 500
        assert not set(others["__entity"].to_pylist()) & set(own["__entity"].to_pylist())
        assert own["__label"].to_pylist().count(1) == pytest.approx(52, abs=12)
    assert len({entity for _, own in written for entity in own["__entity"].to_pylist()}) == 250


def test_a_small_set_has_folds_unless_it_is_split_by_time() -> None:
    assert (default_folds(lend(), 19_999), default_folds(lend(), 20_000)) == (5, 1)
    assert default_folds(lend(split={"by": "time"}), 500) == 1


def test_what_is_learned_from_is_computed_once_for_all_trials(
    bench: Callable[..., Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = bench()
    first = measure(lend("mlp"), work)
    monkeypatch.setattr("penstock_tuner.trials.preparation.chunks", None)

    again = measure(lend("mlp", decision={"threshold": {"choose": "max_accuracy"}}), work)

    assert again.weights == first.weights


def test_texts_come_back_as_they_were_computed(tmp_path: Path) -> None:
    texts = [f"good loan {row}" if row % 3 else "bad" for row in range(120)]
    table = pa.table(
        {
            "purpose": texts,
            "income": [1.0 * (row % 7) for row in range(120)],
            "__label": [int(row % 3 > 0) for row in range(120)],
        }
    )
    for name in ("train", "validation"):
        lending.write_part(tmp_path / f"{name}.parquet", table)
    parts = tmp_path / "train.parquet", tmp_path / "validation.parquet"
    spec = lending.spec(model=MODELS["mlp"], trainer={"epochs": 2})
    spec["sources"]["applications"]["fields"]["purpose"] = {"type": "text"}
    spec["features"] = {name: {"from": f"applications.{name}"} for name in ("purpose", "income")}
    pipeline = Pipeline.model_validate(spec)
    expected = build(pipeline, *parts).weights
    work = Workbench(folder=tmp_path / "study")
    work.fill(*parts, pipeline, 1)

    assert measure(pipeline, work).weights == measure(pipeline, work).weights == expected


@pytest.mark.parametrize("folds", [1, 3])
def test_the_losses_of_groups_make_up_the_validation_loss(
    folds: int, bench: Callable[..., Workbench]
) -> None:
    found = measure(lend(), bench(folds))

    assert len(found.losses) == 50
    assert np.mean(found.losses) == pytest.approx(found.metrics["validation_loss"], rel=0.02)


def test_a_group_of_losses_has_whole_entities_whatever_the_order_of_rows() -> None:
    random = np.random.default_rng(3)
    entities = np.array([f"person {row // 3}" for row in range(600)])
    said = random.uniform(0.1, 0.9, 600)
    told = [
        losses_by_group(
            Scores("regression", (entities == "person 7")[order].astype(float), order, values=said[order]),
            list(entities[order]),
        )
        for order in (np.arange(600), random.permutation(600))
    ]
    assert told[0] == pytest.approx(told[1])
    assert len(told[0]) == 50
