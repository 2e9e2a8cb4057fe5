"""`pruner: {type: asha}`: asynchronous successive halving, in the form that stops trials.

L. Li, K. Jamieson, A. Rostamizadeh et al., *A System for Massively Parallel Hyperparameter Tuning*
(2020).
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.contracts.pipeline import Asha


def shares(pruner: Asha) -> Sequence[float]:
    return [pruner.reduction**-step for step in range(pruner.rungs, 0, -1)]


def worse(pruner: Asha, loss: float, others: Sequence[float]) -> bool:
    """True where the loss is not among the best of one in `reduction`, or the best of fewer."""
    kept = max(1, (len(others) + 1) // pruner.reduction)
    return sum(other < loss for other in others) >= kept
