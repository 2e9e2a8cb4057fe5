"""The pipeline `loans`, with which the tests lend money: its file, past applications, their training set.

A test that needs another field, split or audit changes a copy of these.
"""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.contracts.events import Artifact, TrainingSet
from penstock.contracts.load import read_data
from penstock.contracts.pipeline import Pipeline

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOWHERE = Artifact(uri="file:///nowhere", digest="sha256:" + "0" * 64, size=0)

PIPELINE_TEXT = """\
version: 1
pipeline: loans
entities:
  applicant: {key: applicant_id}
sources:
  applications:
    entity: applicant
    id: application_id
    timestamp: at
    fields:
      income: {type: number}
      purpose: {type: category}
      defaulted: {type: boolean}
      sex: {type: category, protected: true}
targets:
  default: {from: applications.defaulted, type: binary}
audit:
  groups: {sex: {}}
  gates:
    - {metric: auroc, at_least: 0.7}
    - {metric: equalized_odds_difference, by: sex, at_most: 0.15, on_fail: review}
"""


def spec(**changes: Any) -> dict[str, Any]:
    """The file's data, with `changes` of its sections."""
    return read(PIPELINE_TEXT) | changes


def read(text: str) -> dict[str, Any]:
    """The data of a pipeline file, which is read once however many tests ask."""
    return copy.deepcopy(_read(text))


@functools.cache
def _read(text: str) -> dict[str, Any]:
    return read_data(text)


def pipeline(**changes: Any) -> Pipeline:
    return Pipeline.model_validate(spec(**changes))


def training_set(name: str = "loans", **changes: Any) -> TrainingSet:
    """The event's part; its artifacts are nowhere unless `changes` say where."""
    usual = {
        "fingerprint": "sha256:" + "1" * 64,
        "pipeline": name,
        "train": NOWHERE,
        "validation": NOWHERE,
        "audit": NOWHERE,
        "rows": {"train": 60, "validation": 10, "audit": 30},
        "offsets": (),
        "created_at": NOW,
    }
    return TrainingSet.model_validate(usual | changes)


def applications(seed: str, rows: int, *, one_class: bool = False) -> pa.Table:
    """Past applications as a training set has them: a higher income is labelled 1, with some noise."""
    draw = random.Random(seed)
    income = [draw.gauss(0, 1) for _ in range(rows)]
    labels = [0 if one_class else int(value + draw.gauss(0, 0.3) > 0) for value in income]
    return pa.table(
        {
            "income": [None if draw.random() < 0.1 else value for value in income],
            "purpose": [draw.choice(["home", "car", None]) for _ in range(rows)],
            "__label": pa.array(labels, pa.int64()),
            "__group_sex": [draw.choice(["f", "m"]) for _ in range(rows)],
        }
    )


def write_part(path: Path, rows: pa.Table, classes: Sequence[str] = ("false", "true")) -> Path:
    """A part of a training set, train, validation or audit, as the feature store writes it."""
    said = json.dumps({"classes": list(classes)})
    pq.write_table(rows.replace_schema_metadata({"penstock": said}), path)
    return path
