"""Embedded or in containers, it is the same platform: the same events become the same model, and it
answers the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from census import PIPELINE, Served, infer, tensors

from penstock.testing.compose import ComposeUnderTest
from penstock.testing.wait import until

pytestmark = [pytest.mark.compose, pytest.mark.stack]

TOLERANCE = 1e-6


def estimates(result: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Everything that the audit measured, by its place in the result; intervals are drawn anew for
    each version.
    """
    if isinstance(result, dict):
        if isinstance(value := result.get("estimate"), int | float):
            yield path, float(value)
        for key, inner in result.items():
            yield from estimates(inner, f"{path}.{key}")
    elif isinstance(result, list):
        for number, inner in enumerate(result):
            yield from estimates(inner, f"{path}[{number}]")


def test_quality_fairness_and_probabilities_are_those_of_the_embedded_stack(
    served: Served, served_by_compose: Served
) -> None:
    pair = (served, served_by_compose)
    embedded, contained = (dict(one.version.metrics) for one in pair)
    assert contained.keys() == embedded.keys()
    assert {name: value for name, value in contained.items() if abs(value - embedded[name]) > TOLERANCE} == {}
    embedded, contained = (
        dict(estimates(json.loads(one.client.audits.get(one.version.digest).result_json))) for one in pair
    )
    assert len(embedded) > 20
    assert contained.keys() == embedded.keys()
    assert {path: value for path, value in contained.items() if abs(value - embedded[path]) > TOLERANCE} == {}
    rows = served.events[:2000]
    answers = [
        np.concatenate(
            [infer(one, *tensors(one, rows[start : start + 64])) for start in range(0, len(rows), 64)]
        )
        for one in pair
    ]
    assert answers[0].shape == (len(rows), 2)
    assert float(np.abs(answers[0] - answers[1]).max()) <= TOLERANCE, PIPELINE


def test_mlflow_and_tensorboard_are_told_of_a_run_in_containers_too(
    served_by_compose: Served, compose: ComposeUnderTest
) -> None:
    run = served_by_compose.version.run_id
    ended = f"SELECT status FROM runs WHERE name = '{run}'"
    asked = ("psql", "--username", "penstock", "--dbname", "mlflow", "--tuples-only", "--command", ended)

    def told() -> bool:
        return compose.execute("postgres", *asked).split() == ["FINISHED"]

    until(told, within=120, what="MLflow knows the run", despite=RuntimeError)  # it makes its tables first
    assert "tfevents" in compose.execute("trainer", "ls", f"trainer/tensorboard/{PIPELINE}/{run}")
