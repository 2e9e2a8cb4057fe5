from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from penstock.contracts.errors import Invalid
from penstock.modelkit.build import build
from penstock.modelkit.fairness import SCALE, Penalty, groups_of
from penstock.modelkit.model import run
from penstock.modelkit.rows import Rows, read

NOTIONS = ("demographic_parity", "equalized_odds", "equal_opportunity")


@pytest.mark.parametrize("notion", NOTIONS)
@pytest.mark.parametrize("count", [2, 3])
def test_the_gradient_is_the_one_of_the_value(notion: Any, count: int) -> None:
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(40, generator=random, dtype=torch.float64)
    labels = torch.randint(0, 2, (40,), generator=random)
    groups = torch.randint(-1, count, (40,), generator=random)
    penalty = Penalty(notion, 0.7, count)

    def value(at: torch.Tensor) -> torch.Tensor:
        return penalty(torch.sigmoid(at), labels, groups)

    moving = logits.clone().requires_grad_()
    value(moving).backward()
    assert moving.grad is not None
    for row in range(len(logits)):
        step = torch.zeros_like(logits)
        step[row] = 1e-6
        slope = (value(logits + step) - value(logits - step)) / 2e-6
        assert moving.grad[row].item() == pytest.approx(slope.item(), abs=1e-7)


def test_the_value_is_the_distance_between_means() -> None:
    probability = torch.tensor([0.9, 0.7, 0.4, 0.2, 0.8, 0.6, 0.1, 0.1, 0.99])
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 1])
    groups = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, -1])  # the last belongs to none
    positive, negative = 0.8 - 0.3, 0.7 - 0.1
    assert Penalty("equal_opportunity", 2.0, 2)(probability, labels, groups).item() == pytest.approx(
        2 * SCALE * positive
    )
    assert Penalty("equalized_odds", 2.0, 2)(probability, labels, groups).item() == pytest.approx(
        2 * SCALE * (positive + negative)
    )
    overall = (0.9 + 0.7 + 0.8 + 0.6) / 4 - (0.4 + 0.2 + 0.1 + 0.1) / 4
    assert Penalty("demographic_parity", 1.0, 2)(probability, labels, groups).item() == pytest.approx(
        SCALE * overall
    )


def test_a_batch_that_can_compare_nothing_costs_nothing() -> None:
    one = Penalty("equalized_odds", 1.0, 2)(
        torch.tensor([0.9, 0.1, 0.5]), torch.tensor([1, 1, 1]), torch.tensor([0, 0, 1])
    )
    assert one.item() == 0


def biased(count: int, seed: int) -> tuple[dict[str, list[Any]], list[int]]:
    """Two groups; one is labelled positive more readily, and `x` gives the group away."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 2, count)
    merit = random.normal(0, 1, count)
    x = group + random.normal(0, 0.4, count)
    labels = (merit + 3 * group + random.normal(0, 0.7, count) > 1.5).astype(int)
    return {
        "merit": merit.tolist(),
        "x": x.tolist(),
        "__group_sex": np.where(group, "f", "m").tolist(),
    }, labels.tolist()


@pytest.mark.parametrize("notion", NOTIONS)
def test_the_penalty_lowers_the_measured_gap(world: Any, notion: str) -> None:
    parts = [
        world.part(name, *biased(count, seed))
        for name, count, seed in (("train", 2000, 1), ("validation", 600, 2))
    ]
    audit = world.part("audit", *biased(2000, 3))
    gaps = []
    for strength in (0.0, 1.0):
        pipeline = world.pipeline(
            {"merit": "number", "x": "number", "sex": "category"},
            {"merit": {}, "x": {}},
            audit={"groups": {"sex": {}}},
            trainer={
                "epochs": 6,
                "batch_size": 128,
                "optimizer": {"learning_rate": 0.01},
                "fairness": {"notion": notion, "by": "sex", "strength": strength},
            },
        )
        built = build(pipeline, *parts)
        rows = read(audit, built.signature, pipeline)
        gaps.append(_gap(notion, rows, (run(built.model, rows)["decision"][:, 0] == "true")))
    assert gaps[0] > 0.15
    assert gaps[1] < gaps[0] / 2


def _gap(notion: str, rows: Rows, decided: Any) -> float:
    group = rows.groups["sex"]
    given = {
        "demographic_parity": [np.full(len(rows), True)],
        "equalized_odds": [rows.labels == 0, rows.labels == 1],
        "equal_opportunity": [rows.labels == 1],
    }[notion]
    return max(
        abs(decided[(group == "f") & cell].mean() - decided[(group == "m") & cell].mean()) for cell in given
    )


def grouped(values: list[Any]) -> Rows:
    count = len(values)
    return Rows(
        np.zeros((count, 0)),
        np.zeros((count, 0), dtype=object),
        np.zeros(count),
        {"age": np.array(values, dtype=object)},
    )


def test_numbers_are_grouped_by_the_audits_bins(world: Any) -> None:
    pipeline = world.pipeline(
        {"x": "number", "age": "number"}, {"x": {}}, audit={"groups": {"age": {"bins": [25, 40]}}}
    )
    count, train, validation = groups_of(
        pipeline, "age", grouped([20.0, 24.9, 25.0, 39.0, None]), grouped([10.0, 30.0, 50.0, None])
    )
    assert count == 2
    assert train.tolist() == [0, 0, 1, 1, -1]
    assert validation.tolist() == [0, 1, -1, -1]  # nobody over 40 in training


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["f", "f"], "all training rows are in one group of `age`"),
        ([None, None], "`age` is missing in all training rows"),
    ],
)
def test_nothing_to_compare_is_a_sentence(world: Any, values: list[Any], said: str) -> None:
    pipeline = world.pipeline({"x": "number", "age": "category"}, {"x": {}})
    with pytest.raises(Invalid, match=said):
        groups_of(pipeline, "age", grouped(values), grouped(values))
    with pytest.raises(Invalid, match="carries no group `race`"):
        groups_of(pipeline, "race", grouped(["f", "m"]), grouped(["f"]))
