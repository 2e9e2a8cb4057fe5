"""Defaults by the number of training rows."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.contracts.load import read
from penstock.contracts.pipeline import Mlp, Pipeline
from penstock.contracts.planning import planned

TEXT = """
version: 1
pipeline: loans
entities: {applicant: {key: applicant_id}}
sources:
  applications:
    entity: applicant
    id: application_id
    timestamp: at
    fields:
      income: {type: number}
      defaulted: {type: boolean}
      sex: {type: category, protected: true}
targets: {default: {from: applications.defaulted, type: binary}}
"""


def file(**sections: Any) -> Pipeline:
    return read(TEXT + "".join(f"{name}: {value}\n" for name, value in sections.items()))


@pytest.mark.parametrize("rows", [300, 2_500, 30_000, 1_000_000])
def test_steps_are_planned_and_not_epochs(rows: int) -> None:
    trainer = planned(file(model="{type: linear}"), rows).pipeline.trainer
    assert trainer.early_stopping is not None
    assert trainer.epochs * rows / trainer.batch_size >= 1_500
    assert 32 <= trainer.batch_size <= 256
    assert trainer.batch_size <= max(32, rows / 8)
    assert trainer.early_stopping.patience < trainer.epochs


def test_a_key_that_the_file_names_stays_and_the_rest_is_told() -> None:
    said = file(
        model="{type: mlp, hidden: [8]}",
        trainer="{batch_size: 7, optimizer: {type: sgd}, early_stopping: null}",
    )
    pipeline, chosen, because = planned(said, 500)
    assert not because
    assert (pipeline.trainer.batch_size, pipeline.trainer.early_stopping) == (7, None)
    assert (pipeline.model.type, pipeline.trainer.optimizer.type) == ("mlp", "sgd")
    assert chosen["trainer.epochs"] == pipeline.trainer.epochs
    assert not chosen.keys() & {"trainer.batch_size", "trainer.early_stopping.patience", "model.hidden"}
    assert not [key for key in chosen if key.startswith("trainer.optimizer")]
    assert planned(pipeline, 9_000_000) == (pipeline, {}, ""), "what was chosen is as good as said"


def test_few_rows_have_small_trees_and_no_steps() -> None:
    few, many = (planned(file(model="{type: boosted_trees}"), rows).chosen for rows in (500, 50_000))
    assert few.keys() == many.keys() == {"model.num_leaves", "trainer.epochs"}
    assert few["model.num_leaves"] < many["model.num_leaves"]


def test_leaves_hold_fewer_rows_where_there_are_few() -> None:
    said = file(model="{type: boosted_trees}")
    planned_for = {rows: planned(said, rows) for rows in (1, 20, 39, 199, 200)}
    sizes = {rows: plan.pipeline.model.model_dump()["min_data_in_leaf"] for rows, plan in planned_for.items()}
    assert sizes == {1: 1, 20: 2, 39: 3, 199: 19, 200: 20}
    assert "model.min_data_in_leaf" in planned_for[199].chosen.keys() - planned_for[200].chosen.keys()
    named = file(model="{type: boosted_trees, min_data_in_leaf: 20}")
    assert "model.min_data_in_leaf" not in planned(named, 30).chosen


def test_the_family_is_one_that_does_all_that_the_file_asks_for() -> None:
    pipeline, chosen, because = planned(file(), 5_000)
    assert pipeline.model.type == chosen["model.type"] == "boosted_trees"
    assert because == "the file names no family, and there are 5,000 rows to train on"
    fair = file(
        trainer="{fairness: {notion: equalized_odds, by: sex}}",
        audit="{groups: {sex: {}}}",
    )
    assert planned(fair, 5_000).chosen["model.type"] == "mlp"
    assert planned(fair, 5_000).because.endswith(
        "; `boosted_trees` would come first and does not take `trainer.fairness`"
    )
    assert planned(file(trainer="{batch_size: 64}"), 5_000).pipeline.model.type == "mlp"
    named = planned(file(model="{dropout: 0.5}"), 5_000)
    assert (named.pipeline.model.type, named.because) == ("mlp", ""), "its section is named"


def test_the_recipe_of_an_mlp_comes_whole_or_not_at_all() -> None:
    whole, chosen, _ = planned(file(model="{type: mlp, hidden: [8]}"), 5_000)
    assert isinstance(whole.model, Mlp)
    assert (whole.model.recipe, whole.model.hidden) == ("realmlp", (8,))
    assert chosen["trainer.optimizer.learning_rate"] == whole.trainer.optimizer.learning_rate > 1e-3
    assert whole.resolved_features()["income"].scale == "robust"
    for named in (
        {"model": "{type: mlp, recipe: plain}"},
        {"model": "{type: mlp}", "trainer": "{optimizer: {beta2: 0.999}}"},
    ):
        model = planned(file(**named), 5_000).pipeline.model
        assert isinstance(model, Mlp)
        assert model.recipe == "plain", "a default that the file names is named"
    plain = planned(file(model="{type: mlp}", trainer="{optimizer: {learning_rate: 0.001}}"), 5_000).pipeline
    assert isinstance(plain.model, Mlp)
    assert (plain.model.recipe, plain.model.hidden) == ("plain", (64, 32))
    assert plain.resolved_features()["income"].scale == "standard"


def test_fixed_defaults_stay_what_they_were() -> None:
    """So has a pipeline that was applied before there were others: its data says nothing of them."""
    stored = file().model_dump(exclude={"defaults"}, exclude_unset=True, by_alias=True)
    applied = Pipeline.model_validate(stored)
    assert planned(applied, 500) == (applied, {}, "")
    assert (applied.trainer.batch_size, applied.trainer.epochs) == (256, 30)
    pinned = file(defaults="1")
    assert planned(pinned, 500).pipeline.trainer == applied.trainer
    assert "defaults" not in pinned.model_dump()


def test_a_constraint_that_names_no_strength_costs_little() -> None:
    asked = "{fairness: {notion: equalized_odds, by: sex%s}}"
    plan = planned(file(trainer=asked % "", audit="{groups: {sex: {}}}"), 5_000)
    assert plan.pipeline.trainer.fairness is not None
    assert (plan.pipeline.trainer.fairness.strength, plan.chosen["trainer.fairness.strength"]) == (0.3, 0.3)
    named = planned(file(trainer=asked % ", strength: 2", audit="{groups: {sex: {}}}"), 5_000)
    assert named.pipeline.trainer.fairness is not None
    assert named.pipeline.trainer.fairness.strength == 2
    assert "trainer.fairness.strength" not in named.chosen
    assert "trainer.fairness" not in {key[:16] for key in planned(file(), 5_000).chosen}
