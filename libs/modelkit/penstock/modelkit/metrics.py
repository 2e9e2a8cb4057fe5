"""How good a model is, on labels and outputs of one split.

Written out in NumPy: scikit-learn says the same (a test compares them), but takes as long to import
as a small run takes to train.
"""

from __future__ import annotations

import numpy as np

from penstock.modelkit.graph import Array


def binary(labels: Array, probability: Array, decided: Array) -> dict[str, float]:
    """labels: 0 or 1. probability: of 1. decided: 0 or 1 by the threshold alone, abstaining left aside."""
    return {
        "auroc": auroc(labels, probability),
        "accuracy": float(np.mean(labels == decided)),
        "f1": f1(labels == 1, decided == 1),
        "log_loss": log_loss(labels, np.stack([1 - probability, probability], axis=1)),
        "brier": float(np.mean((probability - labels) ** 2)),
    }


def multiclass(labels: Array, probabilities: Array) -> dict[str, float]:
    """labels: class index. F1 and AUROC: each class against the rest, unweighted mean; Brier:
    summed over classes.
    """
    count = probabilities.shape[1]
    decided = probabilities.argmax(axis=1)
    truth = np.eye(count)[labels]
    found = {
        "accuracy": float(np.mean(labels == decided)),
        "f1": float(np.mean([f1(labels == index, decided == index) for index in range(count)])),
        "log_loss": log_loss(labels, probabilities),
        "brier": float(np.mean(((probabilities - truth) ** 2).sum(axis=1))),
    }
    if len(np.unique(labels)) == count:
        found["auroc"] = float(
            np.mean([auroc(labels == index, probabilities[:, index]) for index in range(count)])
        )
    return found


def regression(labels: Array, values: Array) -> dict[str, float]:
    spread = float(((labels - labels.mean()) ** 2).sum())
    error = values - labels
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "r2": 1 - float((error**2).sum()) / spread if spread else 0.0,
    }


def auroc(labels: Array, scores: Array) -> float:
    """How often a positive row scores above a negative one, ties counting half: Mann and Whitney's
    U by ranks. Needs both classes.
    """
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
    positive = labels == 1
    hits = int(positive.sum())
    above = float(ranks[positive].sum()) - hits * (hits + 1) / 2
    return above / (hits * (len(labels) - hits))


def f1(truth: Array, decided: Array) -> float:
    """Both boolean [N]; 0 where nothing is positive."""
    named = int(truth.sum()) + int(decided.sum())
    return 2 * int((truth & decided).sum()) / named if named else 0.0


def log_loss(labels: Array, probabilities: Array) -> float:
    chosen = probabilities.astype(np.float64)[np.arange(len(labels)), labels.astype(np.int64)]
    return abs(float(np.mean(np.log(np.clip(chosen, 1e-7, 1.0)))))
