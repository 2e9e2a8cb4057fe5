from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.errors import Invalid
from penstock.contracts.overrides import for_trials, overridden
from penstock.contracts.pipeline import Adam, Linear, Mlp, OneHot
from penstock.testing import lending

Spec = dict[str, Any]


@pytest.fixture
def loans() -> Spec:
    return lending.spec(
        features={name: {"from": f"applications.{name}"} for name in ("income", "purpose")},
        audit={"groups": {"sex": {}}},
        trainer={"epochs": 3, "early_stopping": None},
    )


def test_overrides_change_what_they_name(loans: Spec) -> None:
    pipeline = overridden(
        loans,
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
    assert loans["trainer"]["epochs"] == 3  # the applied one stays


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
        (
            {"model": {"type": "linear", "hidden": [8]}},
            "model: `hidden` is for `type: mlp or ",
        ),
        (
            {"model.type": "linear", "model.dropout": 0.2},
            "model.dropout: `dropout` is for `type: mlp or ",
        ),
        (
            {"trainer.optimizer.momentum": 0.5},
            "trainer.optimizer.momentum: `momentum` is for `type: sgd` and means nothing with `type: adamw`",
        ),
        ({"model.type": "liner"}, "model.type: input should be 'mlp', 'linear', "),
        (
            {"model.layers": 3},
            "model.layers: no key `layers`; there is `type`, `recipe`, `hidden`, `dropout`",
        ),
        (
            {"features.purpose.encode": "one_hot", "features.purpose.dimension": 3},
            "features.purpose.dimension: `dimension` is for `encode: embedding or ",
        ),
    ],
)
def test_a_wrong_override_is_a_sentence(loans: Spec, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        overridden(loans, overrides)
    assert str(caught.value).startswith(said)


def test_a_type_takes_the_place_of_its_section(loans: Spec) -> None:
    loans["model"] = {"type": "mlp", "hidden": [128], "dropout": 0.3}
    loans["trainer"]["optimizer"] = {"type": "sgd", "momentum": 0.5, "learning_rate": 0.1}
    assert overridden(loans, {"model.type": "linear"}).model == Linear(type="linear")
    assert overridden(loans, {"model.type": "mlp"}).model == Mlp()
    for overrides in (
        {"model.type": "mlp", "model.hidden": [8]},
        {"model.hidden": [8], "model.type": "mlp"},
    ):
        assert overridden(loans, overrides).model == Mlp(hidden=(8,))
    optimizer = overridden(loans, {"trainer.optimizer.type": "adam"}).trainer.optimizer
    assert optimizer == Adam(type="adam", learning_rate=0.1)  # every optimizer has a learning rate
    purpose = overridden(loans, {"features.purpose.encode": "one_hot"}).features["purpose"]
    assert purpose == OneHot(source_field="applications.purpose", encode="one_hot")


def test_what_was_applied_before_it_was_refused_is_not_refused_of_a_run(loans: Spec) -> None:
    loans["model"] = {"type": "linear", "hidden": [8], "dropout": 0.4}
    loans["promotion"] = {"compare": "none", "metric": "brier"}
    assert overridden(loans, {"trainer.epochs": 5}).model.type == "linear"
    with pytest.raises(Invalid, match=r"model.hidden: `hidden` is for `type: mlp or "):
        overridden(loans, {"model.hidden": [8]})


def test_default_features_are_not_replaced_by_one(loans: Spec) -> None:
    del loans["features"]
    with pytest.raises(Invalid, match="declares no feature `income`"):
        overridden(loans, {"features.income.clip": [0, 1]})


@pytest.mark.parametrize(
    "training", [None, {"seed": 5, "workers": 4, "accelerator": "gpu", "precision": "bf16"}]
)
def test_trials_take_one_worker_and_a_cpu(loans: Spec, training: Spec | None) -> None:
    """A family that cannot have more is among them, and its rules hold."""
    spec = {**loans, "training": training} if training else loans
    trial = overridden(for_trials(spec), {"model.type": "boosted_trees"}).training
    assert (trial.workers, trial.accelerator, trial.precision) == (1, "cpu", "fp32")
    assert trial.seed == (5 if training else 7)
