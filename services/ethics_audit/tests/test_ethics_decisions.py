"""Decisions in words: which classes are taken for which, and from where on the positive one is decided."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from penstock.contracts.pipeline import Scalar
from penstock.testing.lending import pipeline
from penstock_ethics_audit.audit import Findings
from penstock_ethics_audit.report.decisions import confusions, decided
from penstock_ethics_audit.report.pictures import Confusion, Pictures
from penstock_ethics_audit.result import Result, Threshold


def of_classes(count: int) -> Result:
    """`c0` is taken for each other class, for the later ones more often; `c1` once for none."""
    taken = [
        (0 if said == 0 else said for said in range(count)),
        (int(said == count) for said in range(count + 1)),
    ]
    rows = [[*taken[0], 0], [*taken[1]], *([0] * (count + 1) for _ in range(count - 2))]
    found = Findings.model_construct(classes=tuple(f"c{number}" for number in range(count)))
    pictures = Pictures.model_construct(confusion=Confusion(counts=tuple(map(tuple, rows))))
    return Result.model_construct(findings=found, pictures=pictures)


def test_of_many_classes_the_ten_worst_confusions_are_listed() -> None:
    listed = confusions(of_classes(14))
    assert [pair[:3] for pair in listed] == [("c0", f"c{said}", said) for said in range(13, 3, -1)]
    assert listed[0][3] == pytest.approx(13 / sum(range(14)))
    assert confusions(of_classes(10)) == [], "as many fit into a table"


@pytest.mark.parametrize(
    ("choose", "favourable", "said"),
    [
        ("max_f1", "", "from a probability of 0.15783 on; chosen on the validation rows, where F1 is best."),
        ("fixed", "", "from a probability of 0.15783 on; the pipeline file fixes that."),
        ("rate", "granted", "is decided positive. granted is the decision that is good for the person."),
    ],
)
def test_the_threshold_is_said_with_the_digits_that_decide(choose: str, favourable: str, said: str) -> None:
    found = Findings.model_construct(classes=("granted", "DENIED"))
    threshold = Threshold.model_construct(value=0.15783, choose=choose, favourable=favourable)
    result = Result.model_construct(findings=found, threshold=threshold, target="Decision")
    assert decided(result).startswith("Decided DENIED from")
    assert decided(result).endswith(said)


@pytest.mark.parametrize(
    ("favourable", "name"), [(0.0, "0"), (2.5, "2.5"), (True, "true"), ("good", "good"), (None, "")]
)
def test_the_decision_that_is_good_for_the_person_is_called_as_its_class(
    favourable: Scalar | None, name: str
) -> None:
    target = {"from": "applications.defaulted", "type": "binary", "favourable": favourable}
    package: Any = SimpleNamespace(metrics={"threshold": 0.4}, pipeline=pipeline(targets={"default": target}))
    from penstock_ethics_audit import job  # a second of every worker, were it imported above

    threshold = job._threshold(package)
    assert threshold is not None
    assert threshold.favourable == name
