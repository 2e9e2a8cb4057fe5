"""The wide part: a weight per combination of values, and none for those that training never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from family_suite import keeps_its_promises, parts, pipeline

from penstock.contracts.errors import Invalid
from penstock.modelkit.build import build, prepare
from penstock.modelkit.family import family_of
from penstock.modelkit.features import transform
from penstock.modelkit.graph import Array
from penstock.modelkit.model import run
from penstock.modelkit.rows import Rows

CROSSED = {"type": "wide_deep", "crosses": [["purpose", "owner"]]}
QUICK = {"epochs": 8, "batch_size": 32, "optimizer": {"learning_rate": 0.02}}


@pytest.mark.parametrize("target", ["binary", "multiclass"])
def test_with_crosses_it_keeps_its_promises(tmp_path: Path, target: str) -> None:
    assert keeps_its_promises(pipeline(CROSSED, target, trainer=QUICK), tmp_path).metrics["auroc"] > 0.7


def _one_or_the_other(folder: Path, name: str, count: int) -> Path:
    """Labels that are true where exactly one of purpose `car` and `owner` is: no sum of both says so."""
    (path, _) = parts(folder)
    table = pq.read_table(path)
    random = np.random.default_rng(len(name))
    rows = table.take(random.integers(0, len(table), count))
    purpose = random.choice(["home", "car"], count)
    owner = random.choice(["true", "false"], count)
    flags = (purpose == "car") != (owner == "true")
    for column, values in (("purpose", purpose.tolist()), ("owner", owner.tolist()), ("__label", flags)):
        values = values.astype(int) if isinstance(values, np.ndarray) else values
        rows = rows.set_column(rows.schema.get_field_index(column), column, [values])
    target = folder / f"{name}.parquet"
    pq.write_table(rows.replace_schema_metadata(table.schema.metadata), target)
    return target


def test_a_cross_learns_what_no_sum_says(tmp_path: Path) -> None:
    """Without hidden layers the network is linear, so only the cross can."""
    files = (_one_or_the_other(tmp_path, "first", 400), _one_or_the_other(tmp_path, "second", 100))
    flat = {"type": "wide_deep", "hidden": []}
    alone, crossed = (
        build(pipeline(model, trainer=QUICK), *files).metrics["auroc"]
        for model in (flat, {**flat, "crosses": CROSSED["crosses"]})
    )
    assert alone < 0.7
    assert crossed > 0.95


def test_a_combination_that_training_never_saw_adds_nothing(tmp_path: Path) -> None:
    files = parts(tmp_path)
    spec = pipeline(CROSSED, trainer=QUICK)
    built, prepared, family = build(spec, *files), prepare(spec, *files), family_of(spec.model)
    strings = np.array([["never seen", "never seen"], ["car", "true"]], dtype=object)
    rows = Rows(np.full((2, 4), 3.0), strings, np.zeros(2), {})
    model = family.fit(spec, prepared)
    answers = model.predict(transform(prepared.preprocessing, rows, family.inputs))
    assert np.abs(run(built.model, rows)["probabilities"] - answers).max() <= 1e-6
    cross: Array = model.network.wide[-1].weight.detach().numpy()  # type: ignore[attr-defined]
    unknown = len(cross) - 1  # the last bucket of both
    assert cross[unknown] == 0
    assert np.count_nonzero(cross) >= 6


def test_a_cross_of_too_many_combinations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.modelkit.families.wide_deep.LARGEST", 19)
    with pytest.raises(Invalid, match="`purpose` and `owner` have 20 combinations") as caught:
        build(pipeline(CROSSED, trainer=QUICK), *parts(tmp_path))
    assert caught.value.where == "model.crosses[0]"
