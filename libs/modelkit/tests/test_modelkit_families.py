"""Every family keeps what the port promises."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from family_suite import gives_intervals, honours_weights, keeps_its_promises, parts, pipeline

from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.variants import section_at
from penstock.contracts.planning import BY_ROWS, planned
from penstock.modelkit.build import build
from penstock.modelkit.family import family_of
from penstock.modelkit.network import Shape
from penstock.modelkit.realmlp import PIECE, RealMlp

SECTION = section_at(Pipeline, ["model"])
assert SECTION is not None
TYPES: dict[str, Any] = SECTION.types()
QUICK: dict[str, Any] = {"epochs": 4, "batch_size": 64, "optimizer": {"learning_rate": 0.03}}
OF_NUMBERS = 7  # epochs: they take longer to learn than classes
LONGER: dict[str, int] = {}  # epochs of a type that does not learn in so few
SMALL: dict[str, dict[str, Any]] = {
    "ft_transformer": {"d": 16, "blocks": 2, "heads": 4},
    "tabm": {"k": 4, "hidden": [16]},
}


def test_every_type_of_model_has_a_family() -> None:
    assert {"mlp", "linear"} <= set(TYPES)
    for name, spec in TYPES.items():
        family = family_of(spec(type=name))
        assert family.spec is spec
        assert ("loop" in signature(family.fit).parameters) == spec.workers, name


def of(name: str, target: str = "binary") -> Pipeline:
    trainer = {key: value for key, value in QUICK.items() if key in TYPES[name].trainer_keys}
    trainer["epochs"] = LONGER.get(name, OF_NUMBERS if target == "regression" else QUICK["epochs"])
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


@pytest.mark.parametrize("target", get_args(Task))
def test_the_recipe_of_realmlp_keeps_them_too(tmp_path: Path, target: str) -> None:
    model = {"type": "mlp", "recipe": "realmlp", "hidden": [16], "dropout": 0.1}
    built = keeps_its_promises(pipeline(model, target, trainer=QUICK), tmp_path)
    assert built.metrics["r2" if target == "regression" else "auroc"] > 0.7


def test_pieces_of_a_number_count_less_than_other_columns_to_realmlp() -> None:
    dense, buckets = torch.zeros(2, 6), torch.zeros(2, 0, dtype=torch.int64)
    dense[1, 2:] = 1  # three pieces of the second number, and one column that is none
    network = RealMlp(Shape((), 6, 1, 2, (range(2, 2), range(2, 5))), [8], 0.0)
    seen = []
    network.layers[0].register_forward_hook(lambda _, inputs, found: seen.append(inputs[0]))
    network(dense, buckets)
    assert torch.allclose(seen[0][1, -4:] - seen[0][0, -4:], torch.tensor([PIECE, PIECE, PIECE, 1.0]))


def test_a_few_hundred_rows_are_trained_for_as_many_steps_as_they_need(tmp_path: Path) -> None:
    files = parts(tmp_path)
    fixed, by_rows = (pipeline({"type": "linear"}, defaults=defaults) for defaults in (1, BY_ROWS))
    least, most = (build(planned(spec, 500).pipeline, *files).metrics["auroc"] for spec in (fixed, by_rows))
    assert most > least + 0.05
