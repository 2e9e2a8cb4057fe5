"""Decisions in words: the threshold and how it was chosen, and which classes are taken for others."""

from __future__ import annotations

from penstock.measures.groups import called
from penstock_ethics_audit.result import Result

MANY_CLASSES = 10  # above so many, a table of all pairs is not read
WORST = 10
_CHOSEN = {
    "max_f1": "where F1 is best",
    "max_accuracy": "where accuracy is best",
    "rate": "so that the asked share of rows is decided positive",
}


def confusions(result: Result) -> list[tuple[str, str, int, float]]:
    """True class, decided class, rows, share of the true class's rows; the most frequent first. Empty
    where all pairs fit into a table.
    """
    classes, confusion = result.findings.classes, result.pictures.confusion
    if len(classes) <= MANY_CLASSES or confusion is None:
        return []
    pairs = [
        (classes[truth], classes[said], count, count / max(1, sum(row)))
        for truth, row in enumerate(confusion.counts)
        for said, count in enumerate(row[: len(classes)])
        if said != truth and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:WORST]


def decided(result: Result) -> str:
    """Says from which probability on the positive class is decided, and why from there."""
    threshold = result.threshold
    if threshold is None:
        return ""
    positive = called(result.target, result.findings.classes[1])
    if threshold.choose == "fixed":
        how = "the pipeline file fixes that"
    else:
        how = f"chosen on the validation rows, {_CHOSEN[threshold.choose]}"
    good = (
        f" {threshold.favourable} is the decision that is good for the person."
        if threshold.favourable
        else ""
    )
    return f"Decided {positive} from a probability of {threshold.value:.5g} on; {how}.{good}"
