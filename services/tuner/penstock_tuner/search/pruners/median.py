"""`pruner: {type: median}`: the median stopping rule.

D. Golovin, B. Solnik, S. Moitra et al., *Google Vizier: A Service for Black-Box Optimization* (2017).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from penstock.contracts.pipeline import MedianStopping


def shares(pruner: MedianStopping) -> Sequence[float]:
    return [(step + 1) / (pruner.rungs + 1) for step in range(pruner.rungs)]


def worse(pruner: MedianStopping, loss: float, others: Sequence[float]) -> bool:
    return len(others) >= pruner.trials and loss > statistics.median(others)
