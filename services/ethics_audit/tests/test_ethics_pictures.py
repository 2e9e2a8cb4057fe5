"""Pictures of groups with any name."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from pydantic import ValidationError

from penstock.contracts.events import Interval
from penstock.measures.scores import Scores
from penstock.packages.parts import Bar, Bars, CurvePoint, Curves, Explanation, Series
from penstock.packages.parts import Histogram as HistogramShown
from penstock.testing.packages import AUROC_PASSED
from penstock_ethics_audit.audit import Findings, GroupFindings, GroupingFindings, Rate
from penstock_ethics_audit.baselines import Baseline
from penstock_ethics_audit.importance import Importance
from penstock_ethics_audit.looks import Looks
from penstock_ethics_audit.report.concerns import concerns, merged, unfinished, unstated
from penstock_ethics_audit.report.notes import notes
from penstock_ethics_audit.report.pictures import Confusion, Curve, Histogram, Pictures, pictures
from penstock_ethics_audit.result import Result

HALF = Interval(estimate=0.5, lower=0.4, upper=0.6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name",
    ["$x^{$", "$50k-$100k", "50$", "_nobody", r"\frac{1}{", "<b>&amp;", "日本\u202e", "{}", "%s", "x" * 1000],
)
def test_a_group_may_have_any_name(name: str) -> None:
    # Matplotlib: a second of every worker, were it imported above.
    from penstock_ethics_audit.report.curves import curves, distributions
    from penstock_ethics_audit.report.figures import errors

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
    shown = [
        curves(drawn, "g", classifies=True, areas={name: HALF}),
        distributions(drawn, "g", "Probability"),
        errors(found),
    ]
    for picture in shown:
        assert picture is not None
        assert escape(name, quote=False) in picture.svg
        ElementTree.fromstring(picture.svg)


@pytest.mark.parametrize(("rows", "points"), [(9, 1), (38, 3), (99, 9), (5000, 10)])
def test_a_point_of_a_calibration_curve_is_ten_rows_at_least(rows: int, points: int) -> None:
    labels = np.arange(rows, dtype=float)
    scores = Scores.of_numbers(labels, np.arange(rows), labels)
    (curve,) = pictures(scores, (), Findings.model_construct(groupings=())).calibration[""]
    assert len(curve.x) == points


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["_age", "$x^{$", "<b>&amp;", "日本\u202e", "w" * 1000])
def test_a_family_shows_bars_and_histograms_under_any_name(name: str) -> None:
    from penstock_ethics_audit.report.explanations import explained

    words = Bars(title=name, about=name, axis=name, bars=(Bar(name=name, value=2), Bar(name="b", value=-1)))
    errors = Explanation.model_validate(
        {
            "gain": {name: 0.75, "b": 0.25},
            "pictures": [
                words.model_dump(),
                {
                    "kind": "histogram",
                    "title": "Errors",
                    "about": "Of validation rows.",
                    "axis": "Error",
                    "edges": [0, 1, 2],
                    "series": [{"name": name, "shares": [0.25, 0.75]}],
                    "marks": {"threshold": 1.5},
                },
            ],
        }
    )
    measured = Importance(rows=9, loss="log loss", features={name: HALF, "b": None})
    (_, _, gain), (title, about, drawn), (_, _, spread) = explained(measured, errors)
    assert f"{name} 0.500 (0.400 to 0.600), b not defined; gain {name} 75.0%, b 25.0%" in gain.alt
    assert (title, about) == (name, name)
    assert f"{name} 2.000, b -1.000" in drawn.alt
    assert f"{name}: most often 1.000 to 2.000; threshold at 1.500" in spread.alt
    for picture in (gain, drawn, spread):
        ElementTree.fromstring(picture.svg)
        assert escape(name[:20], quote=False) in picture.svg


SHOWN = {"title": "t", "about": "a", "axis": "x"}
HISTOGRAM = SHOWN | {"kind": "histogram", "edges": [0, 1], "series": [{"name": "s", "shares": [1]}]}


@pytest.mark.parametrize(
    "picture",
    [
        HISTOGRAM | {"marks": {str(at): at for at in range(8)}},
        HISTOGRAM | {"edges": [-1e308, 1e308]},
        HISTOGRAM | {"series": [{"name": "s", "shares": [1e308]}]},
        SHOWN | {"kind": "bars", "bars": [{"name": "a", "value": -1e308}]},
    ],
)
def test_what_cannot_be_drawn_is_in_no_package(picture: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"less than or equal|greater than or equal|at most 7 items"):
        Explanation.model_validate({"pictures": [picture]})


def test_a_histogram_has_a_share_a_bin() -> None:
    with pytest.raises(ValueError, match="one share a bin"):
        HistogramShown(
            title="t", about="a", axis="x", edges=(0, 1, 2), series=(Series(name="s", shares=(1,)),)
        )


def _noted(task: str, counts: tuple[tuple[int, ...], ...] | None, *gates: object) -> tuple[str, ...]:
    found = Findings.model_construct(
        task=task, classes=("a", "b", "c"), labels={"a": 60, "b": 1040, "c": 0}, gates=gates, performance={}
    )
    shown = Pictures.model_construct(confusion=counts and Confusion(counts=counts))
    return notes(Result.model_construct(findings=found, pictures=shown))


def test_a_class_that_is_never_decided_is_said_with_the_verdict() -> None:
    some = ((0, 55, 0, 5), (0, 1000, 0, 40), (0, 0, 0, 0))
    assert _noted("multiclass", some) == ("The model never decides `a` (60 rows).",)
    assert _noted("regression", None) == ()


def test_one_decision_for_everybody_leaves_fairness_gates_empty() -> None:
    """Equalized odds 0.000 by a signed pass, of a model that decides nothing."""
    passed = AUROC_PASSED.model_copy(update={"metric": "equalized_odds_difference", "by": "sex"})
    failed = passed.model_copy(update={"verdict": "fail"})
    one = ((0, 60, 0, 0), (0, 1040, 0, 0), (0, 0, 0, 0))
    (said,) = _noted("binary", one, passed)
    assert said.startswith("The model never decides `a` (60 rows): all 1,100 rows get one decision. A gate")
    assert "passes emptily" in said
    assert "choose: rate" in said
    assert "emptily" not in _noted("binary", one, failed)[0]


def test_a_model_that_decides_nothing_gives_no_row_one_decision() -> None:
    passed = AUROC_PASSED.model_copy(update={"metric": "equalized_odds_difference", "by": "sex"})
    none = ((0, 0, 0, 60), (0, 0, 0, 1040), (0, 0, 0, 0))
    (said,) = _noted("binary", none, passed)
    assert said.startswith(
        "The model never decides `a` (60 rows), `b` (1,040 rows): no row gets a decision. A gate"
    )
    assert "passes emptily" in said
    assert "decision: {abstain: [low, high]}" in said
    assert "choose: rate" not in said


def test_a_third_value_of_a_binary_target_is_counted_and_said() -> None:
    found = Findings.model_construct(classes=("not paid", "paid"))
    [said] = merged(Result.model_construct(findings=found, merged={"late": 812, "open": 13}))
    assert said.startswith("Labels that count as not `paid`: `late` 812, `open` 13 rows.")
    assert merged(Result.model_construct(findings=found, merged={})) == []


@pytest.mark.parametrize(
    ("losses", "epochs", "said"),
    [
        ([0.7, 0.6, 0.5, 0.4, 0.3], 5, True),
        ([0.7, 0.6, 0.5, 0.4, 0.3], 30, False),  # something else ended it
        ([0.7, 0.4, 0.32, 0.301, 0.3], 5, False),  # level
        ([0.7, 0.3, 0.4, 0.5, 0.6], 5, False),  # the best is kept
    ],
)
def test_a_training_that_had_not_learnt_all_says_so(losses: list[float], epochs: int, said: bool) -> None:
    points = tuple(
        CurvePoint(
            epoch=number,
            train_loss=loss,
            validation_loss=loss,
            validation_metric=0.8,
            learning_rate=0.1,
            elapsed_s=number,
        )
        for number, loss in enumerate(losses, 1)
    )
    result = Result.model_construct(training=Curves(metric="auroc", points=points), epochs=epochs)
    assert ["still falling" in one for one in unfinished(result)] == [True] * said


def test_a_difference_is_said_with_the_groups_that_it_is_between() -> None:
    """`old` has too few rows of a label for equalized odds, and enough for its selection rate."""
    groups = (_selected("young", 0.74), _selected("middle", 0.72), _selected("old", 0.54, thin=True))
    found = _apart("age", groups, thin=("equalized_odds_difference",))
    assert [said.rpartition(": ")[2] for said in concerns(found)] == [
        "selection rate of `yes`, 54% for old, 74% for young."
    ]


def test_numbers_are_said_with_the_column_that_they_are_of() -> None:
    groups = (_selected("0", 0.9, label="1"), _selected("1", 0.6, label="1"))
    [said] = concerns(_apart("black", groups), target="approve")
    assert said.endswith("selection rate of `approve = 1`, 60% for black = 1, 90% for black = 0.")


def test_rows_that_do_not_say_are_left_out_for_the_reason_that_is_so() -> None:
    [grouping] = _apart("race", (_selected("a", 0.1),)).groupings
    many = grouping.model_copy(
        update={"not_stated": 523, "left_out": True, "unstated": {"NO": 516, "YES": 7}}
    )
    assert unstated(many, "search") == (
        "523 rows do not state it: 7 of these have the label YES, and 30 of each are needed to be compared as"
        " a group, so they count in the overall figures only."
    )
    assert "1 row does not state it: too few to be" in unstated(
        many.model_copy(update={"not_stated": 1, "unstated": {}})
    ), "of an audit of before"
    assert "a group of their own" in unstated(many.model_copy(update={"left_out": False}))


@pytest.mark.parametrize(
    ("favourable", "said"),
    [
        ("yes", "Demographic parity ratio by age is 0.287 (0.205 to 0.405), of the decision `yes`: under"),
        ("no", ""),
        ("", "adverse impact is often judged, where that decision is the favourable one."),
    ],
)
def test_four_fifths_are_asked_of_the_decision_that_is_good_for_the_person(
    favourable: str, said: str
) -> None:
    """So many are denied (`yes`) of one group: 0.287 of the other; granted are 0.95."""
    denied = Interval(estimate=0.287, lower=0.205, upper=0.405)
    granted = Interval(estimate=0.95, lower=0.9, upper=0.98)
    ratios = {"demographic_parity_ratio": denied, "nonselection_ratio": granted}
    found = _apart("age", (_selected("young", 0.1), _selected("old", 0.3)))
    [grouping] = found.groupings
    grouping = grouping.model_copy(update={"disparities": ratios})
    told = concerns(found.model_copy(update={"groupings": (grouping,)}), "x", favourable)
    assert ["under four fifths" in one for one in told] == ([True] if said else [])
    assert all(said in one for one in told)
    worse = {"nonselection_ratio": denied, "demographic_parity_ratio": granted}
    other = found.model_copy(update={"groupings": (grouping.model_copy(update={"disparities": worse}),)})
    assert any("Nonselection ratio by age is 0.287" in one for one in concerns(other, "x", favourable)) == (
        favourable == "no"
    )


@pytest.mark.parametrize(("favourable", "ratio"), [("good", "Nonselection"), ("bad", "Demographic parity")])
def test_four_fifths_are_asked_of_a_class_that_several_values_make(favourable: str, ratio: str) -> None:
    """`good` and `fair` count as `not bad`."""
    low = Interval(estimate=0.287, lower=0.205, upper=0.405)
    found = _apart("age", (_selected("young", 0.1), _selected("old", 0.3)))
    ratios = {"demographic_parity_ratio": low, "nonselection_ratio": low}
    groupings = (found.groupings[0].model_copy(update={"disparities": ratios}),)
    told = concerns(
        found.model_copy(update={"classes": ("not bad", "bad"), "groupings": groupings}), "x", favourable
    )
    [said] = [one for one in told if "under four fifths" in one]
    assert said.startswith(f"{ratio} ratio by age")


def _selected(name: str, selected: float, *, label: str = "yes", thin: bool = False) -> GroupFindings:
    rate = Rate(of="selection", label=label, value=Interval(estimate=selected, lower=0, upper=1))
    return GroupFindings(group=name, rows=99, cells={}, thin=thin, rates=(rate,), performance={})


def _apart(by: str, groups: tuple[GroupFindings, ...], thin: tuple[str, ...] = ()) -> Findings:
    parity = Interval(estimate=0.2, lower=0.1, upper=0.3)
    grouping = GroupingFindings(
        by=by,
        min_rows=30,
        groups=groups,
        not_stated=0,
        left_out=False,
        disparities={"demographic_parity_difference": parity},
        thin=thin,
    )
    return Findings(
        verdict="pass",
        gates=(),
        task="binary",
        classes=("no", "yes"),
        rows=297,
        entities=297,
        labels={},
        abstained=0,
        performance={},
        groupings=(grouping,),
        confidence=0.95,
        resamples=100,
        seed=1,
    )


@pytest.mark.parametrize(("lower", "said"), [(0.90, True), (0.93, False)])
def test_a_model_that_decides_the_commonest_class_is_no_better(lower: float, *, said: bool) -> None:
    """Also where a gate on its accuracy passed."""
    found = Findings(
        verdict="pass",
        gates=(),
        task="multiclass",
        classes=("a", "b", "c"),
        rows=1000,
        entities=1000,
        labels={"a": 924, "b": 50, "c": 26},
        abstained=0,
        performance={"accuracy": Interval(estimate=0.94, lower=lower, upper=0.95)},
        groupings=(),
        confidence=0.95,
        resamples=100,
        seed=1,
    )
    result = Result.model_construct(findings=found, pictures=Pictures())
    assert any("no better than always deciding the commonest class" in each for each in notes(result)) == said


@pytest.mark.parametrize(
    ("estimate", "lower", "verdict", "said"),
    [
        (0.035, -0.01, "inconclusive", "better by 0.035 (-0.010 to 0.080), which may be chance. To train it"),
        (
            0.035,
            0.01,
            "pass",
            "better by 0.035 (0.010 to 0.080). To train it: `model: {type: linear}` with `trainer:"
            " {optimizer: {learning_rate: 0.01}}`, which comes near that figure.",
        ),
        (0.035, -0.01, "pass", ""),
        (-0.001, -0.02, "fail", ""),
    ],
)
def test_a_simpler_model_that_is_better_is_named_with_what_to_write(
    estimate: float, lower: float, verdict: str, said: str
) -> None:
    def auroc(value: float) -> dict[str, Interval | None]:
        return {"auroc": Interval(estimate=value, lower=value - 0.07, upper=value + 0.07)}

    worse = Interval(estimate=estimate, lower=lower, upper=0.08)
    linear = Baseline(name="linear", performance=auroc(0.759 + estimate), metric="auroc", worse_by=worse)
    gate = AUROC_PASSED.model_copy(update={"verdict": verdict})
    found = Findings.model_construct(task="binary", gates=(gate,), performance=auroc(0.759))
    shown = Pictures.model_construct(confusion=None)
    result = Result.model_construct(findings=found, pictures=shown, baselines=(linear,), looks=Looks())
    named = [note for note in notes(result) if said in note]
    assert len(named) == len(notes(result)) == bool(said)
    if said:
        assert "A linear model, fitted in seconds on the same rows, is better: AUROC 0.794" in named[0]


def test_a_narrow_picture_fits_a_phone_and_a_wide_one_keeps_its_letters() -> None:
    """A picture is as wide as its share of the page; on a phone that share of what letters need."""
    from matplotlib.figure import Figure

    from penstock_ethics_audit.report.drawing import WIDTH, svg_of

    shares = [
        re.findall(r'style="--share: ([0-9.]+)"', svg_of(Figure((width, 3)), "some"))
        for width in (WIDTH / 2, WIDTH, 2 * WIDTH)
    ]
    assert shares == [["0.50"], ["1.00"], ["1.00"]]
    style = files("penstock_ethics_audit.report").joinpath("templates", "report.css").read_text()
    phone = style.split("@media screen and (max-width: 40rem)")[1].split("@media print")[0]
    assert "figure.wide svg { min-width: calc(var(--share, 1) * 36rem); max-width: none; }" in phone
