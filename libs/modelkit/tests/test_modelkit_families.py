"""Every family keeps what the port promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from family_suite import keeps_its_promises, pipeline

from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import section_at
from penstock.modelkit.family import family_of

SECTION = section_at(Pipeline, ["model"])
assert SECTION is not None
TYPES: dict[str, Any] = SECTION.types()
QUICK: dict[str, Any] = {"epochs": 8, "batch_size": 32, "optimizer": {"learning_rate": 0.02}}


def test_every_type_of_model_has_a_family() -> None:
    assert {"mlp", "linear"} <= set(TYPES)
    for name, spec in TYPES.items():
        assert family_of(spec(type=name)).spec is spec


@pytest.mark.parametrize("target", get_args(Task))
@pytest.mark.parametrize("name", TYPES)
def test_a_family_keeps_its_promises(tmp_path: Path, name: str, target: str) -> None:
    assert target in TYPES[name].targets
    trainer = {key: value for key, value in QUICK.items() if key in TYPES[name].trainer_keys}
    built = keeps_its_promises(pipeline({"type": name}, target, trainer=trainer), tmp_path)
    assert built.metrics["r2" if target == "regression" else "auroc"] > 0.7
