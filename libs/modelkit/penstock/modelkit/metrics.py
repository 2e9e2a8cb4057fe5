"""Measures of the model on the validation split: the package's metrics, and the training curve's.

`penstock.measures` has the formulas, so that the trainer and the audit mean the same by a name.
"""

from __future__ import annotations

import math

import numpy as np

from penstock.contracts.measures import MEASURES, Task
from penstock.measures.performance import FORMULAS, performance
from penstock.measures.scores import Scores
from penstock.measures.weighted import estimate
from penstock.modelkit.graph import Array

# The measure that the training curve shows beside the loss.
PIECE = 500_000  # rows; a meter holds some hundred bytes of each
CURVE: dict[Task, str] = {"binary": "auroc", "multiclass": "accuracy", "regression": "rmse"}


def of_split(
    task: Task, labels: Array, answers: dict[str, Array], threshold: float | None
) -> dict[str, float]:
    """Measures that a gate may ask and that are defined on these rows.

    labels: class index or number, [N]. answers: the graph's outputs, `value` [N, 1] or
    `probabilities` [N, k]. Two classes are decided by the threshold alone, more by the likeliest:
    abstaining is left aside.
    """
    return of_scores(scores_of(task, labels, answers, threshold))


def scores_of(task: Task, labels: Array, answers: dict[str, Array], threshold: float | None) -> Scores:
    """A graph's outputs beside the labels, as `of_split` takes them."""
    if task == "regression":
        return _scores(task, labels, answers["value"][:, 0], intervals=answers.get("interval"))
    said = answers["probabilities"]
    decided = said.argmax(axis=1) if threshold is None else said[:, 1] >= np.float32(threshold)
    return _scores(task, labels, said, decided)


def of_scores(scores: Scores) -> dict[str, float]:
    """Measures that a gate may ask and that are defined on these rows."""
    return {
        name: value
        for name, value in estimate(performance(scores), len(scores)).items()
        if MEASURES[name].gate and math.isfinite(value)
    }


def plain_losses(task: Task, parts: dict[str, tuple[Array, dict[str, Array]]]) -> dict[str, float]:
    """The model's loss on each part, for every family alike; no dropout, class weights or penalty has
    a share in it. parts: by name, labels [N] and the graph's outputs, as `of_split` takes them.
    """
    said = "value" if task == "regression" else "probabilities"
    return {f"{name}_loss": _loss(task, labels, answers[said]) for name, (labels, answers) in parts.items()}


def _loss(task: Task, labels: Array, answers: Array) -> float:
    """`loss`, of so many rows at a time."""
    if len(labels) <= PIECE:
        return loss(task, labels, answers)
    pieces = range(0, len(labels), PIECE)
    found = [loss(task, labels[at : at + PIECE], answers[at : at + PIECE]) for at in pieces]
    return float(np.average(found, weights=[len(labels[at : at + PIECE]) for at in pieces]))


def loss(task: Task, labels: Array, answers: Array, weights: Array | None = None) -> float:
    """Log loss of probabilities [N, k], or squared error of values [N, 1] in the target's unit; rows
    count by their weights [N].
    """
    said = answers[:, 0] if task == "regression" else answers
    meter = FORMULAS["rmse" if task == "regression" else "log_loss"](_scores(task, labels, said))
    assert meter is not None
    value = float(meter(np.ones((1, len(labels))) if weights is None else weights[None])[0])
    return value**2 if task == "regression" else value


def of_epoch(task: Task, labels: Array, outputs: Array) -> tuple[str, float]:
    """Name and value of the curve's measure. outputs: a value [N, 1] in the labels' unit, the positive
    class's logit [N, 1], or logits [N, k].
    """
    said = outputs[:, 0] if task == "regression" else outputs
    if task == "binary":
        said = np.concatenate([-outputs, outputs], axis=1)
    meter = FORMULAS[CURVE[task]](_scores(task, labels, said))
    assert meter is not None
    return CURVE[task], float(meter(np.ones((1, len(labels))))[0])


def _scores(
    task: Task, labels: Array, said: Array, decided: Array | None = None, intervals: Array | None = None
) -> Scores:
    labels, said, units = labels.astype(np.float64), said.astype(np.float64), np.arange(len(labels))
    if task == "regression":
        intervals = None if intervals is None else intervals.astype(np.float64)
        return Scores.of_numbers(labels, units, said, intervals)
    decisions = None if decided is None else decided.astype(np.int64)
    return Scores(task, labels, units, probabilities=said, decisions=decisions)
