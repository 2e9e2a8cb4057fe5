"""A score turned into a probability.

J. C. Platt, *Probabilistic Outputs for Support Vector Machines* (1999), with its targets that keep
a perfect separation from growing without end; the Newton steps are those of H.-T. Lin, C.-J. Lin,
R. C. Weng, *A Note on Platt's Probabilistic Outputs* (2007).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock.modelkit.graph import Array

STEPS, RIDGE, ENOUGH = 100, 1e-12, 1e-10


class Sigmoid(NamedTuple):
    """The probability 1 / (1 + exp(-(slope x score + intercept)))."""

    slope: float
    intercept: float

    def logits(self, scores: Array) -> Array:
        return self.slope * scores + self.intercept


def platt(scores: Array, labels: Array, weights: Array | None = None) -> Sigmoid:
    """Fits the two numbers by maximum likelihood. scores: float64 [N]; labels: 0 or 1, both there."""
    counts = np.ones(len(scores)) if weights is None else weights
    positive, negative = counts[labels == 1].sum(), counts[labels == 0].sum()
    target = np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    mean, spread = float(scores.mean()), float(scores.std()) or 1.0
    columns = np.stack([(scores - mean) / spread, np.ones(len(scores))], axis=1)
    found = np.array([0.0, np.log((positive + 1) / (negative + 1))])

    def loss(at: Array) -> float:
        logits = columns @ at
        return float((counts * (np.logaddexp(0, logits) - target * logits)).sum())

    for _ in range(STEPS):
        said = 1 / (1 + np.exp(-columns @ found))
        gradient = columns.T @ (counts * (said - target))
        curvature = (columns.T * (counts * said * (1 - said))) @ columns + RIDGE * np.eye(2)
        step, before, share = np.linalg.solve(curvature, gradient), loss(found), 1.0
        while loss(found - share * step) > before and share > ENOUGH:
            share /= 2
        found = found - share * step
        if before - loss(found) < ENOUGH * before:
            break
    slope = float(found[0] / spread)
    return Sigmoid(slope, float(found[1] - slope * mean))
