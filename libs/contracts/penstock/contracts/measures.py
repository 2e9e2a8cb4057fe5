"""The table of measures: each one's title, direction, range, targets, and who may ask it.

Data alone: `penstock.measures` computes what is listed here. The choices and checks of the pipeline
file, the champion's comparison, the audit's report and the command line follow from this table, so
a measure is one entry here and one function there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal

Task = Literal["binary", "multiclass", "regression"]

CLASSES: tuple[Task, ...] = ("binary", "multiclass")
NUMBERS: tuple[Task, ...] = ("regression",)
TWO_CLASSES: tuple[Task, ...] = ("binary",)


@dataclass(frozen=True)
class Measure:
    """A number about a model on some rows."""

    name: str
    title: str  # Heading for people; `words` is its form within a line
    about: str  # Clause for people that completes "it is …"
    targets: tuple[Task, ...]  # Target types that the audit computes it for
    higher_is_better: bool | None  # None: it describes, neither direction is better.
    range: tuple[float, float]  # Inclusive; infinite where there is no bound
    undefined: str  # Clause that completes "it is undefined where …"
    # Compares groups; the other measures are over all rows, and over each group's own.
    between_groups: bool = False
    of_intervals: bool = False  # Of models whose target has `quantiles`
    # Target types for which a gate may ask it. The package's metrics are those that a gate may ask.
    gate: tuple[Task, ...] = ()
    # Target types for which champion and challenger may be compared by it.
    promotion: tuple[Task, ...] = ()
    several_classes: str = ""  # Clause that says how it is carried over to more than two classes
    penalty: str = ""  # Notion of `trainer.fairness` that works towards parity in it

    @property
    def best(self) -> float:
        """End of the range that is better; between groups, parity."""
        low, high = self.range
        return high if self.higher_is_better else low


_ONE_AGAINST_THE_REST = "each class against the rest, the plain mean"
_WORST_CLASS = "each class against the rest, the worst counts"
_EMPTY_CELL = "a group has no row of some label"

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        # -- over all rows: classes ------------------------------------------------------------
        Measure(
            "auroc",
            "AUROC",
            "the chance that a random positive row gets a higher probability than a random negative one; 0.5"
            " is guessing, 1 is perfect",
            CLASSES,
            higher_is_better=True,
            range=(0, 1),
            undefined="a class has no row",
            gate=TWO_CLASSES,
            promotion=TWO_CLASSES,
            several_classes=_ONE_AGAINST_THE_REST,
        ),
        Measure(
            "accuracy",
            "Accuracy",
            "the share of decided rows that were decided rightly",
            CLASSES,
            higher_is_better=True,
            range=(0, 1),
            undefined="the model abstains on all rows",
            gate=CLASSES,
            promotion=CLASSES,
        ),
        Measure(
            "f1",
            "F1",
            "the harmonic mean of precision and recall of the decision",
            CLASSES,
            higher_is_better=True,
            range=(0, 1),
            undefined="no row has the class, neither by its label nor by its decision",
            gate=TWO_CLASSES,
            several_classes=f"{_ONE_AGAINST_THE_REST} of those that are defined",
        ),
        Measure(
            "precision",
            "Precision",
            "the share of rows decided positive that are positive",
            CLASSES,
            higher_is_better=True,
            range=(0, 1),
            undefined="no row is decided positive",
            gate=TWO_CLASSES,
            several_classes=f"{_ONE_AGAINST_THE_REST} of those that are defined",
        ),
        Measure(
            "log_loss",
            "Log loss",
            "the mean surprise at the true label, in nats",
            CLASSES,
            higher_is_better=False,
            range=(0, inf),
            undefined="there are no rows",
            gate=CLASSES,
            promotion=CLASSES,
        ),
        Measure(
            "brier",
            "Brier score",
            "the mean squared distance of the probabilities from what happened",
            CLASSES,
            higher_is_better=False,
            range=(0, 1),
            undefined="there are no rows",
            gate=TWO_CLASSES,
            promotion=TWO_CLASSES,
            several_classes="summed over the classes",
        ),
        Measure(
            "calibration_error",
            "Calibration error",
            "the mean distance between what was said and what was seen, over ten bins of equal size",
            CLASSES,
            higher_is_better=False,
            range=(0, 1),
            undefined="there are no rows",
            several_classes="of the likeliest class",
        ),
        Measure(
            "abstained",
            "Abstained",
            "the share of rows on which the model declined to decide",
            CLASSES,
            higher_is_better=None,
            range=(0, 1),
            undefined="there are no rows",
        ),
        # -- over all rows: numbers ------------------------------------------------------------
        Measure(
            "rmse",
            "RMSE",
            "the root of the mean squared error, in the target's unit",
            NUMBERS,
            higher_is_better=False,
            range=(0, inf),
            undefined="there are no rows",
            gate=NUMBERS,
            promotion=NUMBERS,
        ),
        Measure(
            "mae",
            "MAE",
            "the mean absolute error, in the target's unit",
            NUMBERS,
            higher_is_better=False,
            range=(0, inf),
            undefined="there are no rows",
            gate=NUMBERS,
            promotion=NUMBERS,
        ),
        Measure(
            "r2",
            "R²",
            "the share of the target's variance that is explained",
            NUMBERS,
            higher_is_better=True,
            range=(-inf, 1),
            undefined="the target is the same in all rows",
            gate=NUMBERS,
        ),
        Measure(
            "coverage",
            "Coverage",
            "the share of true values that lie within the interval, its ends as exact as 32-bit floats; as"
            " much as the quantiles are apart is meant",
            NUMBERS,
            higher_is_better=True,
            range=(0, 1),
            undefined="the model gives no interval",
            of_intervals=True,
            gate=NUMBERS,
        ),
        Measure(
            "interval_width",
            "Interval width",
            "the mean width of the interval, in the target's unit",
            NUMBERS,
            higher_is_better=False,
            range=(0, inf),
            undefined="the model gives no interval",
            of_intervals=True,
            gate=NUMBERS,
        ),
        Measure(
            "mean_error",
            "Mean error",
            "the mean of what was said less what was true, in the target's unit",
            NUMBERS,
            higher_is_better=None,
            range=(-inf, inf),
            undefined="there are no rows",
        ),
        # -- between groups --------------------------------------------------------------------
        Measure(
            "demographic_parity_difference",
            "Demographic parity difference",
            "the largest difference between two groups' selection rates; 0 is parity",
            CLASSES,
            higher_is_better=False,
            range=(0, 1),
            undefined="there are no two groups",
            between_groups=True,
            gate=TWO_CLASSES,
            several_classes=_WORST_CLASS,
            penalty="demographic_parity",
        ),
        Measure(
            "demographic_parity_ratio",
            "Demographic parity ratio",
            "the smallest ratio of two groups' selection rates; 1 is parity, 0.8 is the four-fifths rule"
            " where the positive decision is the favourable one",
            CLASSES,
            higher_is_better=True,
            range=(0, 1),
            undefined="in no group anybody is selected",
            between_groups=True,
            gate=TWO_CLASSES,
            several_classes=_WORST_CLASS,
            penalty="demographic_parity",
        ),
        Measure(
            "nonselection_ratio",
            "Nonselection ratio",
            "the smallest ratio of two groups' shares that get the other decision, which rows without a"
            " decision do not; 1 is parity, 0.8 is the four-fifths rule where the positive decision is the"
            " unfavourable one, as of a default",
            TWO_CLASSES,
            higher_is_better=True,
            range=(0, 1),
            undefined="in no group anybody gets the other decision",
            between_groups=True,
            gate=TWO_CLASSES,
            penalty="demographic_parity",
        ),
        Measure(
            "equalized_odds_difference",
            "Equalized odds difference",
            "the largest difference between two groups in true or in false positive rates; 0 is parity",
            CLASSES,
            higher_is_better=False,
            range=(0, 1),
            undefined=_EMPTY_CELL,
            between_groups=True,
            gate=TWO_CLASSES,
            several_classes=_WORST_CLASS,
            penalty="equalized_odds",
        ),
        Measure(
            "equal_opportunity_difference",
            "Equal opportunity difference",
            "the largest difference between two groups' true positive rates; 0 is parity",
            CLASSES,
            higher_is_better=False,
            range=(0, 1),
            undefined="a group has no positive row",
            between_groups=True,
            gate=TWO_CLASSES,
            several_classes=_WORST_CLASS,
            penalty="equal_opportunity",
        ),
    )
}

FOUR_FIFTHS = ("nonselection_ratio", "demographic_parity_ratio")
"""Measures that the four-fifths rule (EEOC 1978) asks for, by the index of the favourable class."""

PROMOTION_DEFAULT: dict[Task, str] = {"binary": "auroc", "multiclass": "log_loss", "regression": "rmse"}
"""Measure that compares champion and challenger where the pipeline file's does not fit the target."""

if TYPE_CHECKING:
    GateMetric = str
    PromotionMetric = str
else:
    GateMetric = Literal[tuple(name for name, measure in MEASURES.items() if measure.gate)]
    PromotionMetric = Literal[tuple(name for name, measure in MEASURES.items() if measure.promotion)]


def over_rows(task: Task) -> tuple[Measure, ...]:
    """Measures over all rows that are computed for `task`."""
    return tuple(m for m in MEASURES.values() if task in m.targets and not m.between_groups)


def between_groups(task: Task) -> tuple[Measure, ...]:
    """Measures that compare groups and are computed for `task`."""
    return tuple(m for m in MEASURES.values() if task in m.targets and m.between_groups)


def words(name: str) -> str:
    """`equalized odds difference`: the title within a line. A name that this release does not know stays."""
    return MEASURES[name].title.lower() if name in MEASURES else name.replace("_", " ")
