"""Pictures of groups with any name."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

import pytest

from penstock.contracts.events import Interval
from penstock_ethics_audit.audit import GroupFindings, GroupingFindings
from penstock_ethics_audit.report.curves import curves, distributions
from penstock_ethics_audit.report.figures import errors
from penstock_ethics_audit.report.pictures import Curve, Histogram, Pictures

HALF = Interval(estimate=0.5, lower=0.4, upper=0.6)


@pytest.mark.parametrize(
    "name",
    ["$x^{$", "$50k-$100k", "50$", "_nobody", r"\frac{1}{", "<b>&amp;", "日本\u202e", "{}", "%s", "x" * 1000],
)
def test_a_group_may_have_any_name(name: str) -> None:
    line = Curve(group=name, x=(0, 1), y=(0, 1))
    drawn = Pictures(
        roc={"g": (line,)},
        calibration={"g": (line,)},
        distributions={"g": (Histogram(group=name, label=name, edges=(0, 1), shares=(1,)),)},
    )
    performance = dict.fromkeys(("mae", "mean_error"), HALF)
    group = GroupFindings(group=name, rows=9, cells={}, thin=False, performance=performance)
    found = GroupingFindings(
        by="g", min_rows=1, groups=(group,), not_stated=0, left_out=False, disparities={}
    )
    pictures = [
        curves(drawn, "g", classifies=True, areas={name: HALF}),
        distributions(drawn, "g", "Probability"),
        errors(found),
    ]
    for picture in pictures:
        assert picture is not None
        assert escape(name, quote=False) in picture.svg
        ElementTree.fromstring(picture.svg)
