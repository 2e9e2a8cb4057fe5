"""A file that `penstock apply` accepts is trained: each family with each target, and with each demand that a
file can make of it, is refused at its key or gives a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from family_suite import parts, pipeline

from penstock.contracts import rules
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import section_at
from penstock.modelkit.build import build

SECTION = section_at(Pipeline, ["model"])
assert SECTION is not None
TYPES: dict[str, Any] = SECTION.types()
SMALL: dict[str, dict[str, Any]] = {
    "ft_transformer": {"d": 16, "blocks": 1, "heads": 2},
    "tabm": {"k": 4, "hidden": [16]},
}
# After one epoch a detector tells nothing apart, and says so.
LONGER: dict[str, Any] = {"epochs": 8, "batch_size": 32, "optimizer": {"learning_rate": 0.02}}
FAIR = {"trainer": {"fairness": {"notion": "equalized_odds", "by": "purpose"}}}
GROUPS = {"audit": {"groups": {"purpose": {}}}}
WEIGHTS = {"training": {"sample_weight": "rows.counts"}}
QUANTILES = {"target": {"quantiles": [0.1, 0.9]}}
DEMANDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "weights": WEIGHTS,
    "class weights": {"trainer": {"class_weights": "balanced"}},
    "fairness": FAIR | GROUPS,
    "fairness and weights": FAIR | GROUPS | WEIGHTS,
    "an interval": QUANTILES,
    "an interval and weights": QUANTILES | WEIGHTS,
    "convolutions": {"text": {"encode": "text_cnn", "dimension": 8, "filters": 6}},
    "means of words": {"text": {"encode": "text_average"}},
    "a bag of words": {"text": {"encode": "bag_of_words", "vocabulary": 50}},
}


def files(folder: Path, target: str) -> Iterator[Path]:
    for file in parts(folder, target):
        table = pq.read_table(file)
        groups = [group or "" for group in table["purpose"].to_pylist()]
        table = table.append_column("__group_purpose", pa.array(groups))
        weights = np.arange(table.num_rows) % 3 + 1.0
        pq.write_table(table.append_column("__weight", pa.array(weights)), file)
        yield file


def declared(name: str, target: str, demand: dict[str, Any]) -> Pipeline:
    quick = {"epochs": 1, "batch_size": 128}
    known = LONGER if name == "autoencoder" else quick
    trainer = {key: value for key, value in known.items() if key in TYPES[name].trainer_keys}
    trainer |= demand.get("trainer", {})
    sections = {key: value for key, value in demand.items() if key in ("audit", "training", "text")}
    spec = pipeline({"type": name, **SMALL.get(name, {})}, target, trainer=trainer, **sections)
    text = spec.model_dump(by_alias=True, exclude_unset=True)
    text["targets"]["y"] |= demand.get("target", {})
    return Pipeline.model_validate(text)


@pytest.mark.slow  # some 130 models
@pytest.mark.parametrize("target", get_args(Task))
@pytest.mark.parametrize("name", TYPES)
def test_what_is_accepted_is_trained_and_the_rest_refused_at_its_key(
    tmp_path: Path, name: str, target: str
) -> None:
    brought = list(files(tmp_path, target))
    for demand, said in DEMANDS.items():
        spec = declared(name, target, said)
        wrong = rules.problems(spec)
        if wrong:
            assert all(problem.path and problem.message for problem in wrong)
            continue
        assert build(spec, *brought).parity <= 1e-6, demand
