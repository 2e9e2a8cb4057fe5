"""Members of an ensemble: each is what it would be alone, and counts as much as it helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_suite import Killed, parts, pipeline

from penstock.modelkit.build import build, prepare
from penstock.modelkit.families.ensemble import TrainedEnsemble, select
from penstock.modelkit.family import Epoch, family_of
from penstock.modelkit.model import run
from penstock.modelkit.rows import Rows, read

LINEAR, TREES = {"type": "linear"}, {"type": "boosted_trees", "monotone": {"amount": "increasing"}}
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 32, "optimizer": {"learning_rate": 0.02}}


def ensemble(*members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "ensemble", "members": list(members)}


def rows_of(*labels: float) -> Rows:
    count = len(labels)
    return Rows(np.empty((count, 0)), np.empty((count, 0), dtype=object), np.array(labels), {})


def chances(*positive: float) -> np.ndarray[Any, Any]:
    return np.stack([1 - np.array(positive), positive], axis=1)


def test_a_member_that_does_not_help_counts_nothing() -> None:
    rows = rows_of(1, 0, 1, 0)
    rows = Rows(rows.numbers, rows.strings, rows.labels.astype(int), {})
    good, bad = chances(0.9, 0.1, 0.8, 0.2), chances(0.1, 0.9, 0.2, 0.8)
    assert select([bad, good], rows, "binary") == [0.0, 1.0]
    assert select([good, good], rows, "binary") == [1.0, 0.0], "of equal ones the first"


def test_errors_of_opposite_sign_are_averaged_away() -> None:
    rows = rows_of(1.0, 2.0, 3.0)
    over, under = (rows.labels[:, None] + off for off in (0.2, -0.4))
    first, second = select([over, under], rows, "regression")
    assert first == pytest.approx(2 / 3, abs=0.02)
    assert second == pytest.approx(1 / 3, abs=0.02)


def test_rows_count_by_their_weights() -> None:
    rows = rows_of(0.0, 0.0)
    weighed = Rows(rows.numbers, rows.strings, rows.labels, {}, np.array([2.0, 0.0]))
    first, second = np.array([[0.0], [9.0]]), np.array([[1.0], [0.0]])
    assert select([first, second], rows, "regression") != [1.0, 0.0]
    assert select([first, second], weighed, "regression") == [1.0, 0.0]


def test_each_member_is_what_it_would_be_alone(tmp_path: Path) -> None:
    files = parts(tmp_path)
    names, trainers = ("linear", "boosted_trees"), ({"epochs": 3, "batch_size": 16}, {"epochs": 5})
    spec = pipeline({**ensemble(*({"type": name} for name in names)), "trainers": trainers})
    found = family_of(spec.model).fit(spec, prepare(spec, *files))
    assert isinstance(found, TrainedEnsemble)
    for member, name, trainer in zip(found.members, names, trainers, strict=True):
        alone = build(pipeline({"type": name}, trainer=trainer), *files)
        assert member.model.digest() == alone.weights
    told = found.describe()
    assert "ensemble, the average of" in told.kind
    assert "LightGBM" in told.library


def test_a_member_left_out_is_not_in_the_graph(tmp_path: Path) -> None:
    files = parts(tmp_path)
    members = ensemble({"type": "boosted_trees"}, {"type": "mlp", "hidden": [512, 512]})
    spec = pipeline(members, trainer={**QUICK, "epochs": 1, "optimizer": {"learning_rate": 1e-7}})
    built = build(spec, *files)
    assert "`mlp` would not have helped" in built.description.kind
    assert len(built.model) < 200_000  # the mlp alone has a megabyte


def test_it_goes_on_in_the_midst_of_any_member(tmp_path: Path) -> None:
    files, checkpoint = parts(tmp_path), tmp_path / "checkpoint"
    spec = pipeline(ensemble(LINEAR, {"type": "mlp"}), trainer={**QUICK, "early_stopping": None})
    whole = build(spec, *files)
    assert [epoch.number for epoch in whole.history] == [1, 2, 3, 4, 5, 6]
    assert {epoch.epochs for epoch in whole.history} == {6}
    elapsed = [epoch.elapsed_s for epoch in whole.history]
    assert elapsed == sorted(elapsed)
    for moment in (2, 3, 5):  # the second's first epoch, then its second

        def kill(epoch: Epoch, moment: int = moment) -> None:
            if epoch.number == moment:
                raise Killed

        with pytest.raises(Killed):
            build(spec, *files, checkpoint=checkpoint, on_epoch=kill)
    told: list[int] = []
    resumed = build(spec, *files, checkpoint=checkpoint, on_epoch=lambda epoch: told.append(epoch.number))
    assert told == [1, 2, 3, 4, 5, 6]
    assert resumed.model == whole.model


def test_a_constraint_that_all_members_keep_holds_of_their_average(tmp_path: Path) -> None:
    files = parts(tmp_path)
    few = {**TREES, "num_leaves": 4}
    built = build(pipeline(ensemble(TREES, few), trainer={"epochs": 3}), *files)
    spec = pipeline(ensemble(TREES, few))
    rows = read(files[1], built.signature, spec)
    raised = Rows(rows.numbers * [1.5, 1, 1, 1], rows.strings, rows.labels, {})
    before, after = (run(built.model, each)["probabilities"][:, 1] for each in (rows, raised))
    assert (after - before).min() >= -1e-6
    assert (after - before).max() > 0.01
