"""Copies of audit rows in the training part, told from the twins that tables have by nature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from penstock.packages.parts import Inputs, ModelSignature, Output, TargetSignature
from penstock_ethics_audit.twins import copied, twins

SIGNATURE = ModelSignature(
    inputs=Inputs(numbers=("x", "y"), strings=("word",)),
    outputs={"value": Output(datatype="FP32", columns=1)},
    classes=(),
    target=TargetSignature(name="outcome", type="regression"),
)


def written(folder: Path, name: str, rows: list[tuple[float | None, float, str | None, float]]) -> Path:
    x, y, word, label = zip(*rows, strict=True)
    columns = {"x": x, "y": y, "word": pa.array(word, pa.string()), "__label": label, "other": range(len(x))}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def test_rows_are_twins_that_are_alike_in_all_that_the_model_gets_and_the_label(tmp_path: Path) -> None:
    audit = [(1.0, 2.0, "a", 1.0), (None, 0.0, None, 1.0), (2.0, 1.0, "a", 1.0), (1.0, 2.0, "a", 1.0)]
    train = [
        (1.0, 2.0, "a", 1.0),
        (1.0, 2.0, "a", 0.0),  # another label
        (2.0, 1.0, "b", 1.0),  # another word
        (1.0, 2.0, "", 1.0),
        (float("nan"), -0.0, "", 1.0),  # missing as the model sees it
    ]
    found = twins(written(tmp_path, "audit", audit), written(tmp_path, "train", train), SIGNATURE, 4)
    assert (found.rows, found.audit_rows, found.train_rows, found.copies) == (3, 4, 5, False)
    several = twins(tmp_path / "audit.parquet", tmp_path / "train.parquet", SIGNATURE, entities=2)
    assert (several.rows, several.copies) == (3, None)


def occurrences(patterns: NDArray[np.int64], audit: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How often the audit rows' patterns occur among the others."""
    return np.array([(patterns[~audit] == one).sum() for one in np.unique(patterns[audit])])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("people", "values"),
    [(1500, 12), (1500, 2000), (1500, 10**9), (300, 50)],
    ids=["few categories", "as many as rows", "continuous", "small"],
)
def test_what_tables_have_by_nature_is_chance(people: int, values: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    audit = draw.random(people) < 0.15
    heavy = np.minimum(draw.pareto(0.7, people) * values / 100, values).astype(np.int64)
    for patterns in (draw.integers(0, values, people), heavy):
        assert not copied(occurrences(patterns, audit))


@pytest.mark.parametrize("times", [2, 3, 5])
def test_what_was_published_again_under_other_ids_is_no_chance(times: int) -> None:
    draw = np.random.default_rng(times)
    for values in (2000, 10**9):
        patterns = np.tile(draw.integers(0, values, 1500), times)
        assert copied(occurrences(patterns, draw.random(len(patterns)) < 0.15))


def test_a_part_of_the_rows_that_came_again_is_no_chance() -> None:
    draw = np.random.default_rng(1)
    people = draw.integers(0, 10**9, 1500)
    patterns = np.concatenate([people, people[:500]])
    assert copied(occurrences(patterns, draw.random(len(patterns)) < 0.15))
