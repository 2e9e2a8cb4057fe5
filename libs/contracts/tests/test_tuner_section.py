"""`tuner` of a pipeline file: each mistake with its place and a sentence, and the space that is read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.load import BadPipeline, read, read_data
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline, Tpe
from penstock.contracts.rules import search_space
from penstock.contracts.space import Between, Options, Space
from penstock.testing import lending

EXAMPLES = sorted((Path(__file__).resolve().parents[3] / "examples").glob("*/pipeline.yaml"))
KEYS = "features: {income: {from: applications.income}, purpose: {from: applications.purpose}}\n"
FAIR = "trainer: {fairness: {notion: equalized_odds, by: sex}}\n"


def problem(tuner: str, before: str = "") -> str:
    """The only problem of the file with this section, as a person sees it without its line."""
    with pytest.raises(BadPipeline) as caught:
        read(f"{lending.PIPELINE_TEXT}{before}tuner: {tuner}\n")
    (found,) = caught.value.problems
    assert found.line > lending.PIPELINE_TEXT.count("\n")
    return f"{found.key}: {found.message}"


def pipeline(tuner: str = "{}", before: str = "") -> Pipeline:
    return read(f"{lending.PIPELINE_TEXT}{before}tuner: {tuner}\n")


@pytest.mark.parametrize(
    ("tuner", "said"),
    [
        ("{type: tpee}", "type: `tpee` is not allowed; did you mean `tpe`?"),
        ("{minimise: a}", "minimise: no key `minimise`; did you mean `minimize`?"),
        ("{minimize: train_los}", "minimize: `train_los` is not measured; did you mean `train_loss`?"),
        ("{minimize: import os}", "minimize: character 8: a sign must stand here"),
        ("{minimize: '1'}", "minimize: names no measure"),
        (
            "{minimize: auroc}",
            "minimize: is not lower for a perfect model than for the worst; `auroc` is",
        ),
        ("{minimize: equalized_odds_difference.age}", "did you mean `equalized_odds_difference.sex`?"),
        (
            "{type: evolution, objectives: {a: f1}}",
            "objectives: `objectives` is for `type: tpe or",
        ),
        ("{type: genetic, minimize: train_loss}", "minimize: `minimize` is for `type: tpe or random or evol"),
        ("{type: genetic, choose: {type: knee}}", "objectives: name two objectives or more"),
        ("{objectives: {a: 1 - auroc, b: latency_us}}", "objectives: say which trial of the front is taken"),
        (
            "{objectives: {a: 1 - auroc, b: latency_us}, choose: {minimize: c}}",
            "choose.minimize: no objective `c`; there is `a`, `b`",
        ),
        (
            "{objectives: {a: 1 - auroc, b: latency_us}, choose: {minimize: a, at_most: {bb: 1}}}",
            "choose.at_most.bb: no objective `bb`",
        ),
        (
            "{objectives: {a: 1 - auroc, b: latency_us}, choose: {type: knee}, pruner: asha}",
            "pruner: a pruner looks at one loss",
        ),
        (
            "{objectives: {a: 1 - auroc, b: latency_us}, choose: {type: knee}, ensemble: {}}",
            "ensemble: members are ranked by one formula",
        ),
        ("{ensemble: {members: 1}}", "members: input should be greater than or equal to 2, not 1"),
        ("{type: genetic, ensemble: {}}", "`ensemble` is for `type: tpe or random or evolution`"),
        (
            "{pruner: asha, space: {trainer: {class_weights: [balanced, none], epochs: [5, 9]}}}",
            "pruner: the losses that it compares depend on `class_weights`",
        ),
        ("{choose: {type: knee}}", "choose: `choose` is for `objectives`"),
        ("{budget: {trials: 0}}", "budget.trials: input should be greater than or equal to 1, not 0"),
        ("{budget: {time: 0s}}", "budget.time: write how long"),
        ("{budget: {memory: 2G}}", "budget.memory: '2G' is no amount of memory"),
        ("{pruner: {type: median, reduction: 3}}", "pruner.reduction: `reduction` is for `type: asha`"),
    ],
)
def test_a_search_that_cannot_be_made_is_a_sentence(tuner: str, said: str) -> None:
    assert said in problem(tuner)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{modl: {}}", "space.modl: no section `modl`; did you mean `model`?"),
        ("{model: mlp}", "space.model: name families"),
        ("{model: {mpl: {}}}", "space.model.mpl: no family `mpl` to search; did you mean `mlp`?"),
        ("{model: {ensemble: {}}}", "space.model.ensemble: no family `ensemble` to search"),
        ("{model: {mlp: {drpout: [0.1, 0.2]}}}", "drpout: no key `drpout`; did you mean `dropout`?"),
        (
            "{model: {mlp: {num_leaves: [3, 4]}}}",
            "`num_leaves` is for `type: boosted_trees`",
        ),
        ("{model: {mlp: {dropout: [0.1, 1.2]}}}", "dropout[1]: input should be less than 1, not 1.2"),
        ("{model: {mlp: {dropout: {low: 0.5, high: 0.1}}}}", "dropout.high: it must be above `low`"),
        ("{model: {mlp: {dropout: {low: 0, high: 0.5, log: true}}}}", "low: orders of magnitude are above 0"),
        ("{model: {mlp: {dropout: {low: 0.1}}}}", "dropout.high: give both ends"),
        ("{model: {mlp: {hidden: {low: 1, high: 4}}}}", "hidden: this is no number: list the values to try"),
        ("{model: [mlp]}", "space: nothing is left to choose"),
        ("{trainer: {epochs: [3, 3]}}", "epochs[1]: this value stands above"),
        ("{trainer: {epochs: []}}", "epochs: list the values to try"),
        ("{trainer: {epochs: {lo: 3, high: 4}}}", "epochs.lo: no key `lo`; did you mean `low`?"),
        ("{trainer: {batch_size: {low: 16, high: 64.5}}}", "high: input should be a valid integer, not 64.5"),
        ("{trainer: {gradient_clip: [.inf, 1]}}", "gradient_clip[0]: "),
        (
            "{trainer: {optimizer: {learning_rate: [1, 2]}}}",
            "no type `learning_rate`; there is `adamw`",
        ),
        (
            "{trainer: {optimizer: {adamw: {momentum: [0.1, 0.2]}}}}",
            "momentum: `momentum` is for `type: sgd` and means nothing with `type: adamw`",
        ),
        (
            "{model: {boosted_trees: {}}, trainer: {batch_size: [64, 128]}}",
            "trainer.batch_size: no family of the space is trained by `batch_size`",
        ),
        ("{model: [mlp, linear], trainer: {epoch: [3, 4]}}", "no key `epoch`; did you mean `epochs`?"),
        (
            "{model: {mlp: {}}, trainer: {fairness: {strength: [1, 2]}}}",
            "`fairness.notion`: field required",
        ),
        ("{model: {ft_transformer: {heads: [8, 5]}}}", "a token of 192 numbers has no 5 equal parts"),
        (
            "{features: {incme: {scale: [standard, none]}}}",
            "the file declares no feature `incme`; did",
        ),
        ("{features: {income: {scale: [standard, nun]}}}", "income.scale[1]: input should be 'standard'"),
        (
            "{features: {income: {encode: [one_hot]}}}",
            "encode[0]: `encode` does not fit a number field",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_a_sentence(space: str, said: str) -> None:
    assert said in problem(f"{{space: {space}}}", before=KEYS)


def test_rows_that_are_split_by_time_have_no_folds() -> None:
    assert "evaluate.folds: with `split.by: time`" in problem("{evaluate: {folds: 5}}", "split: {by: time}\n")
    assert pipeline("{evaluate: {folds: 1}}", "split: {by: time}\n").tuner.evaluate.folds == 1


def test_a_family_that_the_file_cannot_have_is_a_sentence() -> None:
    said = problem("{space: {model: [mlp, boosted_trees]}}", before=FAIR)
    assert said.startswith("tuner.space.model.boosted_trees: `trainer.fairness` of the file: `boosted_t")


def asked(space: Space, choices: dict[str, Any]) -> dict[str, Options | Between]:
    """Parameters that the choices, and the first option of each, lead to."""
    found = {}
    for parameter in space.asked(choices):
        found[parameter.name] = parameter.domain
        choices.setdefault(parameter.name, parameter.domain.ends[0])
    return found


def test_a_space_is_read_as_it_is_written() -> None:
    text = """
  space:
    model: {mlp: {dropout: {low: 0, high: 0.5}}, boosted_trees: {num_leaves: {low: 4, high: 64, log: true}}}
    trainer: {optimizer: {adamw: {}, sgd: {momentum: [0.5, 0.9]}}, epochs: 40, schedule: [cosine, linear]}
    features: {income: {scale: [standard, none]}}"""
    made = pipeline(text, before=KEYS + "model: {type: mlp, hidden: [32]}\ntrainer: {batch_size: 64}\n")
    space, problems = search_space(made)
    assert problems == []
    trees: dict[str, Any] = {"model.type": "boosted_trees"}
    assert asked(space, trees) == {
        "model.type": Options(("mlp", "boosted_trees")),
        "boosted_trees.model.num_leaves": Between(4, 64, log=True, whole=True),
    }
    assert space.overrides(trees) == {
        "model": {"type": "boosted_trees", "num_leaves": 4},
        "trainer": {"epochs": 40},  # the file's `batch_size` means nothing to trees
    }
    network: dict[str, Any] = {"model.type": "mlp", "mlp.trainer.optimizer.type": "sgd"}
    assert set(asked(space, network)) == {
        *("model.type", "mlp.model.dropout", "mlp.trainer.optimizer.type"),
        *("mlp.trainer.optimizer.sgd.momentum", "mlp.trainer.schedule.type", "mlp.features.income.scale"),
    }
    assert space.overrides(network) == {
        "model": {"type": "mlp", "hidden": [32], "dropout": 0.0},
        "trainer": {
            "batch_size": 64,
            "epochs": 40,
            "optimizer": {"type": "sgd", "momentum": 0.5},
            "schedule": {"type": "cosine"},
        },
        "features.income.scale": "standard",
    }
    assert space.overrides({}) == {}


@pytest.mark.parametrize(
    ("model", "searched"),
    [
        ("", {"mlp", "linear"}),
        ("model: {type: tabm}\n", {"tabm"}),
        ("model: {type: ensemble, members: [mlp, linear]}\n", {"mlp", "linear"}),
    ],
)
def test_a_space_without_families_has_the_files_own_or_those_that_it_can_have(
    model: str, searched: set[str]
) -> None:
    made = pipeline("{space: {trainer: {batch_size: [64, 128]}}}", before=FAIR + model)
    space, problems = search_space(made)
    assert problems == []
    assert set(space.families.types) == searched


@pytest.mark.parametrize(
    "trainer", ["{optimizer: {learning_rate: 0.01}}", "{epochs: 5, optimizer: {type: sgd}}", "{}"]
)
def test_each_family_of_the_default_space_can_be_trained_whatever_the_files_own_is_trained_by(
    trainer: str,
) -> None:
    """The audit advises an optimizer for a linear model; trees have none, and are tried all the same."""
    text = f"{lending.PIPELINE_TEXT}model: {{type: linear}}\ntrainer: {trainer}\n"
    spec = read_data(text)
    space, problems = search_space(Pipeline.model_validate(spec))
    assert problems == []
    assert "boosted_trees" in space.families.types
    for kind in space.families.types:
        choices: dict[str, Any] = {"model.type": kind}
        asked(space, choices)
        run = overridden(spec, space.overrides(choices))
        assert run.model.type == kind
        assert kind != "boosted_trees" or "optimizer" not in run.trainer.model_fields_set


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_each_example_has_a_default_space_whose_ends_are_runs(file: Path) -> None:
    spec = read_data(file.read_text())
    made = Pipeline.model_validate(spec)
    space, problems = search_space(made)
    assert problems == []
    assert made.model.type in space.families.types or "model" not in made.model_fields_set
    for kind in space.families.types:
        choices: dict[str, Any] = {"model.type": kind}
        assert len(asked(space, choices)) > 1
        assert overridden(spec, space.overrides(choices)).model.type == kind


def test_the_strength_of_fairness_is_searched_where_an_objective_compares_groups() -> None:
    objectives = "objectives: {quality: 1 - auroc, fairness: equalized_odds_difference.sex}"
    for text, there in (("{}", False), (f"{{{objectives}, choose: {{minimize: quality}}}}", True)):
        space, _ = search_space(pipeline(text, before=FAIR))
        assert ("mlp.trainer.fairness.strength" in asked(space, {})) is there
        assert "boosted_trees" not in space.families.types


def test_what_is_meant_where_nothing_is_said() -> None:
    assert pipeline().tuner == lending.pipeline().tuner == Tpe()
    assert Tpe().budget.longest == timedelta(minutes=10)
    assert pipeline("{budget: {trials: 3}}").tuner.budget.longest is None
    assert pipeline("{budget: {trials: 3, memory: 2GB}}").tuner.budget.memory == 2_000_000_000


def test_a_section_comes_back_as_it_was_written() -> None:
    text = "{type: random, budget: {time: 30m, memory: 1500MB}, pruner: asha, space: {model: [mlp, linear]}}"
    made = pipeline(text)
    assert Pipeline.model_validate(made.model_dump(mode="json", by_alias=True, exclude_unset=True)) == made
