"""Baselines: graphs of simpler models that answer what the model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from penstock.contracts import rules
from penstock.contracts.pipeline import Pipeline
from penstock.modelkit import baselines as modelkit
from penstock.modelkit.baselines import baselines
from penstock.modelkit.graph import Runner
from penstock.modelkit.rows import classes, read, signature
from penstock.testing import lending


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    train, validation = (lending.applications(seed, rows) for seed, rows in (("1", 400), ("2", 200)))
    return lending.write_part(tmp_path / "train.parquet", train), lending.write_part(
        tmp_path / "validation.parquet", validation
    )


def pipeline(**changes: Any) -> Pipeline:
    return lending.pipeline(model={"type": "mlp"}, **changes)


def test_both_answer_with_the_models_inputs_and_outputs(parts: tuple[Path, Path]) -> None:
    found = baselines(pipeline(), *parts)
    assert list(found) == ["linear", "boosted_trees"]
    named = signature(pipeline(), classes(parts[0]))
    rows = read(parts[1], named, pipeline())
    for graph in found.values():
        answers = dict(zip(named.outputs, Runner(graph)(rows.numbers, rows.strings).values(), strict=True))
        assert answers["probabilities"].shape == (200, 2)
        assert roc_auc_score(rows.labels, answers["probabilities"][:, 1]) > 0.9
    assert baselines(pipeline(), *parts) == found, "the same bytes again"


def test_the_linear_one_is_a_logistic_regression(parts: tuple[Path, Path]) -> None:
    named = signature(pipeline(), classes(parts[0]))
    train, validation = (read(part, named, pipeline()) for part in parts)
    said = Runner(baselines(pipeline(), *parts)["linear"])(validation.numbers, validation.strings)
    income, mean = train.numbers[:, :1], np.nanmean(train.numbers[:, 0])
    reference = LogisticRegression().fit(np.nan_to_num(income, nan=mean), train.labels)
    theirs = reference.predict_proba(np.nan_to_num(validation.numbers[:, :1], nan=mean))[:, 1]
    assert np.corrcoef(said["probabilities"][:, 1], theirs)[0, 1] > 0.98


def test_the_linear_one_says_the_same_by_values_as_by_embeddings(
    parts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = signature(pipeline(), classes(parts[0]))
    train, rows = (read(part, named, pipeline()) for part in parts)
    few = Runner(baselines(pipeline(), *parts)["linear"])(rows.numbers, rows.strings)["probabilities"]
    monkeypatch.setattr(modelkit, "_one_hot", lambda asked, *_: asked)
    many = Runner(baselines(pipeline(), *parts)["linear"])(rows.numbers, rows.strings)["probabilities"]
    assert not np.array_equal(few, many), "another treatment"
    assert np.corrcoef(few[:, 1], many[:, 1])[0, 1] > 0.999
    monkeypatch.undo()
    asked = modelkit._asked(pipeline(), "linear")
    assert modelkit._one_hot(asked, named, train) != asked
    monkeypatch.setattr(modelkit, "MAX_VALUES", len(train))  # no room for a second value
    assert modelkit._one_hot(asked, named, train) == asked


def test_the_models_own_family_is_left_out_and_so_is_what_cannot_read_the_features(
    parts: tuple[Path, Path],
) -> None:
    assert list(baselines(lending.pipeline(model={"type": "linear"}), *parts)) == ["boosted_trees"]
    embedded = {"purpose": {"from": "applications.purpose", "encode": "embedding"}}
    assert list(baselines(pipeline(features=embedded), *parts)) == ["linear"]


def test_a_gate_on_the_models_intervals_leaves_no_baseline_out(tmp_path: Path) -> None:
    quantiles = {"from": "applications.income", "type": "regression", "quantiles": [0.1, 0.9]}
    gates = [{"metric": "coverage", "at_least": 0.75}]
    features = {"purpose": {"from": "applications.purpose"}}
    asked = pipeline(
        targets={"income": quantiles}, features=features, audit={"gates": gates}, promotion={"metric": "rmse"}
    )
    assert rules.problems(asked) == []
    parts = [
        lending.write_part(tmp_path / f"{seed}.parquet", regression(seed), classes=()) for seed in ("1", "2")
    ]
    assert list(baselines(asked, *parts)) == ["linear", "boosted_trees"]


def regression(seed: str) -> pa.Table:
    """Rows whose label is a number that goes with the purpose."""
    rows = lending.applications(seed, 300)
    label = [float(purpose == "car") + 0.01 * at for at, purpose in enumerate(rows["purpose"].to_pylist())]
    return rows.set_column(rows.column_names.index("__label"), "__label", pa.array(label, pa.float64()))
