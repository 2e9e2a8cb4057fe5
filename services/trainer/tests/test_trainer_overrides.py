from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.errors import Invalid
from penstock_trainer.overrides import overridden


def test_overrides_change_what_they_name(loans: Any) -> None:
    pipeline = overridden(
        loans.spec,
        {
            "trainer.epochs": 5,
            "trainer.fairness": {"notion": "equalized_odds", "by": "sex", "strength": 0.3},
            "trainer.optimizer.learning_rate": 0.01,
            "model.hidden": [8],
            "training.seed": 11,
            "features.income.clip": ["p01", "p99"],
        },
    )
    assert pipeline.trainer.epochs == 5
    assert pipeline.trainer.optimizer.learning_rate == 0.01
    assert pipeline.trainer.fairness is not None
    assert pipeline.model.hidden == (8,)
    assert pipeline.training.seed == 11
    assert pipeline.features["income"].clip == ("p01", "p99")
    assert loans.pipeline.trainer.epochs == 3  # the applied one stays


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"trainer.epoch": 5}, "trainer.epoch: no key `epoch`; did you mean `epochs`?"),
        ({"trainer.epochs": 0}, "trainer.epochs: input should be greater than or equal to 1"),
        (
            {"trainer.optimizer.type": "lion"},
            "trainer.optimizer.type: input should be 'adamw', 'adam' or 'sgd'",
        ),
        ({"trainer.fairness.strength": 0.3}, "trainer.fairness.notion: field required"),
        ({"trainer.epochs.more": 1}, "trainer.epochs.more: `epochs` holds no keys"),
        (
            {"trainer.fairness": {"notion": "equalized_odds", "by": "race"}},
            "trainer.fairness: `race` is no group of `audit.groups`",
        ),
        ({"trainr.epochs": 5}, "trainr.epochs: no key `trainr.epochs`; did you mean `trainer`?"),
        (
            {"audit.gates": []},
            (
                "audit.gates: a run may not change `audit.gates`. It may change model, trainer, decision,"
                " training.seed,"
            ),
        ),
        ({"training.max_age": "1d"}, "training.max_age: a run may not change `training.max_age`."),
        (
            {"features.income.from": "applications.sex"},
            "features.income.from: a run may not change `features.income.from`.",
        ),
        (
            {"features.incom.clip": [0, 1]},
            "features.incom.clip: the applied file declares no feature `incom`; did you mean `income`?",
        ),
        (
            {"features.income.encode": "one_hot"},
            "features.income.encode: `encode` does not fit a number field",
        ),
        (
            {"decision.threshold": {"choose": "fixed"}},
            "decision.threshold: `choose: fixed` and `value` go together",
        ),
    ],
)
def test_a_wrong_override_is_a_sentence(loans: Any, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        overridden(loans.spec, overrides)
    assert str(caught.value).startswith(said)


def test_default_features_are_not_replaced_by_one(loans: Any) -> None:
    del loans.spec["features"]
    with pytest.raises(Invalid, match="declares no feature `income`"):
        overridden(loans.spec, {"features.income.clip": [0, 1]})
