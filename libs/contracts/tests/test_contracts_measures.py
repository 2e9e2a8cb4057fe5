"""The table of measures holds together, and the pipeline file's choices and checks follow from it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from penstock.contracts.load import BadPipeline, read
from penstock.contracts.measures import (
    MEASURES,
    PROMOTION_DEFAULT,
    GateMetric,
    Measure,
    PromotionMetric,
    over_rows,
    words,
)
from penstock.contracts.pipeline import FairnessConstraint

NOTIONS = get_args(FairnessConstraint.model_fields["notion"].annotation)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_an_entry_holds_together(measure: Measure) -> None:
    assert set(measure.gate) <= set(measure.targets)
    assert set(measure.promotion) <= set(measure.gate), "what may be compared may be a gate"
    assert measure.range[0] < measure.range[1]
    assert measure.higher_is_better is not None or not measure.gate, "a gate has a side that is better"
    assert not measure.penalty or (measure.between_groups and measure.penalty in NOTIONS)
    if measure.between_groups:  # the better end of the range is parity: a number
        assert measure.higher_is_better is not None
        assert measure.range[measure.higher_is_better] in (0, 1)
    for clause in (measure.about, measure.undefined, measure.several_classes):
        assert not clause.endswith(".")


def test_the_choices_of_a_pipeline_file_are_those_of_the_table() -> None:
    assert get_args(GateMetric) == tuple(name for name, measure in MEASURES.items() if measure.gate)
    assert get_args(PromotionMetric) == tuple(name for name, measure in MEASURES.items() if measure.promotion)
    for task, name in PROMOTION_DEFAULT.items():
        assert task in MEASURES[name].promotion


def test_words() -> None:
    assert [words(name) for name in ("auroc", "equalized_odds_difference", "of_a_later_release")] == [
        "auroc",
        "equalized odds difference",
        "of a later release",
    ]


FILE = """\
version: 1
pipeline: loans
entities: {{applicant: {{key: id}}}}
sources:
  loans:
    entity: applicant
    id: event
    timestamp: at
    fields: {{income: {{type: number}}, outcome: {{type: {field}}}}}
targets: {{outcome: {{from: loans.outcome, type: {task}}}}}
{more}
"""
FIELDS: dict[Any, str] = {"binary": "boolean", "multiclass": "category", "regression": "number"}


@pytest.mark.parametrize("task", FIELDS)
def test_only_what_fits_the_target_is_taken_and_the_refusal_names_what_does(task: Any) -> None:
    fitting = {
        "audit: {{gates: [{{metric: {}, {}: 0.5}}]}}": [m.name for m in over_rows(task) if task in m.gate],
        "promotion: {{metric: {}}}": [m.name for m in over_rows(task) if task in m.promotion],
    }
    for section, names in fitting.items():
        for measure in MEASURES.values():
            if measure.between_groups or not (measure.promotion if "promotion" in section else measure.gate):
                continue
            side = "at_least" if measure.higher_is_better else "at_most"
            file = FILE.format(field=FIELDS[task], task=task, more=section.format(measure.name, side))
            if measure.name in names:
                quantiles = "quantiles: [0.1, 0.9], type: regression"
                assert read(file.replace("type: regression", quantiles) if measure.of_intervals else file)
                continue
            with pytest.raises(BadPipeline) as refused:
                read(file)
            expected = f"`{measure.name}` does not fit a {task} target; use {', '.join(names)}"
            assert [problem.message for problem in refused.value.problems] == [expected]
