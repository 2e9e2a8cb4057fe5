"""Sentences to be read with the verdict, whatever that is: in the signed result, on the report's first
page, and on the command line.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.contracts.measures import MEASURES
from penstock_ethics_audit.looks import words
from penstock_ethics_audit.result import Result

BASELINES = {"linear": "A linear model", "boosted_trees": "A model of boosted trees"}
# The baseline is fitted by L-BFGS; in as many steps of the usual rate a linear model is not there yet.
ADVICE = {
    "linear": (
        "`model: {type: linear}` with `trainer: {optimizer: {learning_rate: 0.01}}`, which comes near that"
        " figure"
    ),
    "boosted_trees": "`model: {type: boosted_trees}`",
}

_OTHER_THRESHOLD = (
    " Another threshold decides otherwise: `decision: {threshold: {choose: rate, value: 0.8}}` gives that"
    " share of rows the positive decision."
)
_LESS_ABSTAINING = " A narrower `decision: {abstain: [low, high]}` leaves more rows a decision."


def notes(result: Result) -> tuple[str, ...]:
    """Lists them, gravest first."""
    looks = words(result.looks, result.findings.gates)
    return (
        *_never_decided(result),
        *_commonest(result),
        *_copies(result),
        *([looks] if looks else []),
        *_simpler(result),
    )


def _never_decided(result: Result) -> Iterator[str]:
    """Says which classes occur among the labels and never among the decisions; and where that leaves one
    decision for everybody, or none for anybody, that fairness gates on it have shown nothing.
    """
    found, confusion = result.findings, result.pictures.confusion
    if confusion is None:
        return
    decided = [sum(column) for column in zip(*confusion.counts, strict=True)]
    of_classes = decided[: len(found.classes)]  # the last of `decided` are the rows of no decision
    pairs = zip(found.classes, of_classes, strict=True)
    never = [name for name, times in pairs if not times and found.labels.get(name)]
    if not never:
        return
    listed = ", ".join(f"`{name}` ({found.labels[name]:,} rows)" for name in never[:5])
    said = f"The model never decides {listed}{f' and {len(never) - 5} more' if len(never) > 5 else ''}"
    nobody = not any(of_classes)
    if not nobody and max(of_classes) < sum(decided):
        yield f"{said}."
        return
    left = "no row gets a decision" if nobody else f"all {sum(decided):,} rows get one decision"
    advice = _LESS_ABSTAINING if nobody else _OTHER_THRESHOLD
    empty = any(gate.by and gate.verdict == "pass" for gate in found.gates)
    yield (
        f"{said}: {left}."
        f"{' A gate that compares the decisions of groups passes emptily then.' if empty else ''}"
        f"{advice if found.task == 'binary' else ''}"
    )


def _commonest(result: Result) -> Iterator[str]:
    """Says where a model of several classes is not shown to be better than the commonest of them."""
    found = result.findings
    if found.task != "multiclass" or (accuracy := found.performance.get("accuracy")) is None:
        return
    most = max(found.labels.values(), default=0) / found.rows
    if accuracy.lower <= most <= accuracy.upper:
        yield (
            "The model may be no better than always deciding the commonest class, which is right in"
            f" {most:.3f}: accuracy {accuracy.estimate:.3f} ({accuracy.lower:.3f} to {accuracy.upper:.3f})."
        )


def _copies(result: Result) -> Iterator[str]:
    found = result.twins
    if found is not None and found.copies:
        yield (
            f"{found.rows:,} of {found.audit_rows:,} audit rows stand in the training part too, equal in all"
            " inputs and the label: more than chance explains, and it makes these figures too good. Rows"
            " that were published again under another id are such; so are, in a split by time, entities"
            " that did not change."
        )


def _simpler(result: Result) -> Iterator[str]:
    """Names each simpler model that is better: where that is proven, and where it only looks so, if this
    one was not found good enough.
    """
    found = result.findings
    wanting = any(gate.by is None and gate.verdict != "pass" for gate in found.gates)
    for one in result.baselines:
        worse, theirs, ours = one.worse_by, one.performance.get(one.metric), found.performance.get(one.metric)
        if worse is None or theirs is None or ours is None or worse.estimate <= 0:
            continue
        if not (proven := worse.lower > 0) and not wanting:
            continue
        title, chance = MEASURES[one.metric].title, "" if proven else ", which may be chance"
        yield (
            f"{BASELINES[one.name]}, fitted in seconds on the same rows, is better: {title}"
            f" {theirs.estimate:.3f}, this model {ours.estimate:.3f}; better by {worse.estimate:.3f}"
            f" ({worse.lower:.3f} to {worse.upper:.3f}){chance}. To train it: {ADVICE[one.name]}."
        )
