"""Measured results that are bad and judged by no gate: said beside the verdict, whatever that is."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.events import Interval
from penstock.contracts.measures import FOUR_FIFTHS, MEASURES
from penstock.measures.fairness import RATES
from penstock.measures.groups import called
from penstock_ethics_audit.audit import Findings, GroupingFindings
from penstock_ethics_audit.result import Result

# Conventions, not laws: a difference of ten points, the four-fifths rule (EEOC 1978).
APART = 0.1
RATIO = 0.8
STILL_FALLING = 0.02  # share of all that was learnt, in the last fifth of the epochs
_RATES = {
    "equalized_odds_difference": ("true_positive", "false_positive"),
    "demographic_parity_difference": ("selection",),
}


def concerns(found: Findings, target: str = "", favourable: str = "") -> list[str]:
    """Lists them, a sentence each: quality first, then what sets groups apart. `target`: the column that
    is predicted; `favourable`: its value whose decision is good for the person, where that is known.
    """
    gated = {(gate.metric, gate.by) for gate in found.gates}
    return [
        *_quality(found, {metric for metric, by in gated if by is None}),
        *(said for grouping in found.groupings for said in _apart(grouping, gated, target)),
        *(
            said
            for grouping in found.groupings
            for said in _adverse(grouping, gated, found.classes, favourable)
        ),
    ]


def merged(result: Result) -> list[str]:
    """Says which values of the target were taken together as the negative class."""
    listed = ", ".join(f"`{value}` {rows:,}" for value, rows in list(result.merged.items())[:5])
    more = len(result.merged) - 5
    positive = result.findings.classes[1] if result.merged else ""
    said = f"Labels that count as not `{positive}`: {listed}{f' and {more} more' if more > 0 else ''} rows."
    return [f"{said} If one of them is no answer yet, leave its rows out."] if result.merged else []


def unstated(grouping: GroupingFindings, target: str = "") -> str:
    """Says what became of the rows that do not state the attribute, and why."""
    said = f"{grouping.not_stated:,} {'row does' if grouping.not_stated == 1 else 'rows do'} not state it"
    if not grouping.left_out:
        return f"{said}, and {'is' if grouping.not_stated == 1 else 'are'} compared as a group of their own."
    scarce = min(grouping.unstated.items(), key=lambda item: item[1], default=None)
    why = (
        f"{scarce[1]:,} of these have the label {called(target, scarce[0])}, and {grouping.min_rows} of each"
        " are needed"
        if scarce
        else "too few"
    )
    return f"{said}: {why} to be compared as a group, so they count in the overall figures only."


def unfinished(result: Result) -> list[str]:
    """Says where training ended while the validation loss still fell."""
    losses = [point.validation_loss for point in result.training.points]
    if len(losses) < 2 or len(losses) < result.epochs or losses.index(min(losses)) < 0.9 * (len(losses) - 1):
        return []
    before = losses[int(0.8 * (len(losses) - 1))]
    if before - losses[-1] < STILL_FALLING * (losses[0] - losses[-1]):
        return []
    return [
        f"The validation loss was still falling when training ended after {len(losses)} epochs: more of"
        " `trainer.epochs` may make a better model."
    ]


def _quality(found: Findings, gated: set[str]) -> Iterator[str]:
    auroc, r2 = (None if name in gated else found.performance.get(name) for name in ("auroc", "r2"))
    if auroc and auroc.lower <= 0.5:
        yield f"The model may be no better than chance: AUROC {_said(auroc)}."
    if r2 and r2.lower <= 0:
        yield f"The model may be no better than the mean of the target: R² {_said(r2)}."
    accuracy, most = found.performance.get("accuracy"), max(found.labels.values(), default=0) / found.rows
    if accuracy and "accuracy" not in gated and accuracy.upper < most:
        yield f"Always deciding the commonest class is right in {most:.3f}, the model in {_said(accuracy)}."
    calibration = found.performance.get("calibration_error")
    if calibration and calibration.lower > APART:
        yield f"Its probabilities are off by {_said(calibration)} on the mean: take them as ranks."


def _apart(grouping: GroupingFindings, gated: set[tuple[str, str | None]], target: str) -> Iterator[str]:
    for name, rates in _RATES.items():
        if (name, grouping.by) in gated:
            continue
        measured = grouping.proven.get(name) if name in grouping.thin else grouping.disparities.get(name)
        if measured is None or measured.estimate < APART or measured.lower <= 0:
            continue
        found = _furthest(grouping, rates, target, thin_too=name not in grouping.thin)
        yield f"{MEASURES[name].title} by {grouping.by} is {_said(measured)}: {found}."


def _adverse(
    grouping: GroupingFindings, gated: set[tuple[str, str | None]], classes: tuple[str, ...], favourable: str
) -> Iterator[str]:
    """Says where the rates of the favourable decision, of two classes, are under four fifths."""
    if len(classes) != len(FOUR_FIFTHS):
        return
    # The class that is not positive may be a name for all of its values, as `not bad`.
    good = classes[0] if favourable and favourable != classes[1] else classes[1]
    ratio = FOUR_FIFTHS[classes.index(good)]
    value, difference = grouping.disparities.get(ratio), "demographic_parity_difference"
    quiet = {(ratio, grouping.by), (difference, grouping.by)} & gated
    if value and not quiet and ratio not in grouping.thin and value.upper < RATIO:
        judged = "" if favourable else ", where that decision is the favourable one"
        yield (
            f"{MEASURES[ratio].title} by {grouping.by} is {_said(value)}, of the decision `{good}`: under"
            f" four fifths, by which adverse impact is often judged{judged}."
        )


def _furthest(grouping: GroupingFindings, rates: tuple[str, ...], target: str, *, thin_too: bool) -> str:
    """The rate that is furthest apart, with its two groups, of those that the measure compares: a group
    that is thin for one measure has rows enough for another.
    """
    spans = []
    for of in rates:
        for label in dict.fromkeys(rate.label for group in grouping.groups for rate in group.rates):
            values = [
                (value.estimate, called(grouping.by, group.group))
                for group in grouping.groups
                if (thin_too or not group.thin) and (value := group.rate(of, label))
            ]
            if len(values) > 1:
                low, high = min(values), max(values)
                spans.append((high[0] - low[0], of, label, low, high))
    if not spans:
        return "between the groups with enough rows"
    _, of, label, low, high = max(spans)
    rate = RATES[of].title.lower()
    return f"{rate} of `{called(target, label)}`, {low[0]:.0%} for {low[1]}, {high[0]:.0%} for {high[1]}"


def _said(value: Interval) -> str:
    return f"{value.estimate:.3f} ({value.lower:.3f} to {value.upper:.3f})"
