"""Every family keeps what the port promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from family_suite import gives_intervals, honours_weights, keeps_its_promises, pipeline

from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import section_at
from penstock.modelkit.family import family_of

SECTION = section_at(Pipeline, ["model"])
assert SECTION is not None
TYPES: dict[str, Any] = SECTION.types()
QUICK: dict[str, Any] = {"epochs": 8, "batch_size": 32, "optimizer": {"learning_rate": 0.02}}
SMALL: dict[str, dict[str, Any]] = {"ft_transformer": {"d": 16, "blocks": 2, "heads": 4}}


def test_every_type_of_model_has_a_family() -> None:
    assert {"mlp", "linear"} <= set(TYPES)
    for name, spec in TYPES.items():
        assert family_of(spec(type=name)).spec is spec


def of(name: str, target: str = "binary") -> Pipeline:
    trainer = {key: value for key, value in QUICK.items() if key in TYPES[name].trainer_keys}
    return pipeline({"type": name, **SMALL.get(name, {})}, target, trainer=trainer)


@pytest.mark.parametrize(
    ("name", "target"), [(name, t) for name, spec in TYPES.items() for t in sorted(spec.targets)]
)
def test_a_family_keeps_its_promises(tmp_path: Path, name: str, target: str) -> None:
    built = keeps_its_promises(of(name, target), tmp_path)
    assert built.metrics["r2" if target == "regression" else "auroc"] > 0.7


@pytest.mark.parametrize("name", [name for name, spec in TYPES.items() if spec.sample_weight])
def test_a_family_counts_rows_by_their_weights(tmp_path: Path, name: str) -> None:
    honours_weights(of(name), tmp_path)


@pytest.mark.parametrize("name", [name for name, spec in TYPES.items() if spec.quantiles])
def test_a_family_gives_intervals(tmp_path: Path, name: str) -> None:
    gives_intervals(of(name, "regression"), tmp_path)
