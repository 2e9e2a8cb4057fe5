"""Decisions: logit to probability to decision, by the threshold, chosen on the validation split, and
the interval in which the model abstains.

What a graph answers by is of operators that opsets 11 to 20 have alike: a graph that was made
elsewhere is answered by it, too.
"""

from __future__ import annotations

import numpy as np

from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Decision
from penstock.modelkit.graph import FLOAT, INT64, STRING, Array, Graph
from penstock.packages.parts import ModelSignature

ABSTAIN = "abstain"


def choose_threshold(decision: Decision, labels: Array, probability: Array) -> float:
    """The lowest probability that is decided positive. labels: 0 or 1; probability: of 1, both [N]
    of the validation split.

    `max_f1` and `max_accuracy` try every cut between two neighbouring scores and put the threshold
    half-way between them, so that rounding decides nobody. Of equal cuts the one nearest to 0.5 is
    taken. `rate` takes the cut that decides as near to that share of rows positive as there is.
    """
    if decision.threshold.choose == "fixed":
        return decision.threshold.value if decision.threshold.value is not None else 0.5
    order = np.argsort(-probability, kind="stable")
    scores, truth = probability[order].astype(np.float64), labels[order]
    hits = np.concatenate([[0], np.cumsum(truth)])  # true positives when the first i rows are positive
    taken = np.arange(len(scores) + 1)
    positives = hits[-1]
    if decision.threshold.choose == "rate":
        value = -np.abs(taken / len(truth) - (decision.threshold.value or 0.0))
    elif decision.threshold.choose == "max_f1":
        value = 2 * hits / np.maximum(taken + positives, 1)
    else:
        value = (hits + (len(truth) - positives) - (taken - hits)) / len(truth)
    above = np.concatenate([[max(1.0, scores[0] + 1e-6)], scores])
    below = np.concatenate([scores, [min(0.0, scores[-1] - 1e-6)]])
    cuts = ((above + below) / 2).astype(np.float32)
    cuts = np.where(cuts > below, cuts, above)  # two scores that single precision holds nothing between
    possible = above > below
    best = value[possible].max()
    candidates = cuts[possible & (value >= best - 1e-12)]
    return float(candidates[np.argmin(np.abs(candidates - 0.5))])


def probabilities(graph: Graph, logits: str, task: Task) -> str:
    """Nodes for probabilities FP32 [N, k] from logits FP32: [N, 1] of two classes, else [N, k]."""
    if task == "binary":
        return graph.op("Sigmoid", graph.op("Concat", graph.op("Neg", logits), logits, axis=1))
    return graph.op("Softmax", logits, axis=1)


def compile_outputs(
    graph: Graph,
    answers: str,
    signature: ModelSignature,
    threshold: float | None,
    abstain: tuple[float, float] | None,
) -> None:
    """The signature's outputs. answers: FP32, as `penstock.modelkit.family.Trained` gives them."""
    if "interval" in signature.outputs:
        graph.output(graph.columns(answers, [0]), "value", FLOAT, ["N", 1])
        graph.output(graph.columns(answers, [1, 2]), "interval", FLOAT, ["N", 2])
    elif not signature.classes:
        graph.output(answers, "value", FLOAT, ["N", 1])
    else:
        decision = compile_decision(graph, answers, signature.classes, threshold, abstain)
        graph.output(answers, "probabilities", FLOAT, ["N", len(signature.classes)])
        graph.output(decision, "decision", STRING, ["N", 1])


def compile_decision(
    graph: Graph,
    probabilities: str,
    classes: tuple[str, ...],
    threshold: float | None,
    abstain: tuple[float, float] | None,
) -> str:
    """Nodes for the decision, string [N, 1]: a class's text, or `abstain`.

    Binary: positive from `threshold` up, which a probability that is no number does not reach;
    abstains where the positive class's probability lies in the closed interval. More classes: the
    likeliest; abstains where its probability lies in the interval.
    """
    if threshold is not None:
        weighed = graph.columns(probabilities, [1])
        cut = graph.constant(threshold, np.float32)
        reached = graph.op("Or", graph.op("Greater", weighed, cut), graph.op("Equal", weighed, cut))
        chosen = graph.op("Cast", reached, to=INT64)
    else:
        weighed, chosen = graph.several(
            "TopK", probabilities, graph.constant([1], np.int64), outputs=2, axis=1
        )
    decided = graph.op("Gather", graph.texts(list(classes)), chosen, axis=0)
    if abstain is None:
        return decided
    low, high = (graph.constant(bound, np.float32) for bound in abstain)
    sure = graph.op("Or", graph.op("Less", weighed, low), graph.op("Greater", weighed, high))
    return graph.op("Where", sure, decided, graph.texts([ABSTAIN]))
