"""Measures as functions of row weights.

A measure is computed for many weightings at once: `weights` [R, N] holds how often each of N rows
was drawn in each of R resamples. Weights of one give the estimate on the rows themselves, so
estimate and interval come from one formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.measures.scores import Floats

Weights = NDArray[Any]
"""[R, N]: how often each row was drawn, numbers of any type."""
Meter = Callable[[Weights], Floats]
"""A measure prepared for some rows: weights [R, N] to values [R], NaN where it is undefined."""
Meters = Callable[[Weights], dict[str, Floats]]
"""Several measures by name."""


BLOCK = 16_384
"""Rows taken at a time: larger temporaries leave the processor's cache, and are mapped anew each time."""


@dataclass(frozen=True)
class Summed:
    """A measure that follows from the weighted sums of some columns."""

    columns: tuple[NDArray[Any], ...]  # [N] each
    value: Callable[..., Floats]  # Takes a sum [R] for each column and returns [R]

    def __call__(self, weights: Weights) -> Floats:
        return self.value(*sums(weights, np.stack(self.columns, dtype=np.float64)).T)


def sums(weights: Weights, columns: Floats) -> Floats:
    """Weighted sums [R, C] of columns [C, N]. Not by BLAS, whose threads wait for one another by spinning."""
    total = np.zeros((len(weights), len(columns)))
    for at in range(0, weights.shape[1], BLOCK):
        rows = slice(at, at + BLOCK)  # as floats: sums of bytes would begin anew at 256
        drawn = weights[:, rows].astype(np.float64, copy=False)
        total += np.einsum("rn,cn->rc", drawn, columns[:, rows])
    return total


def mean(column: NDArray[Any]) -> Summed:
    """Weighted mean of a column [N]."""
    return Summed((column, np.ones(len(column))), ratio)


def together(meters: Mapping[str, Meter]) -> Meters:
    """Computes several measures of the same rows: one matrix product serves all that follow from sums,
    with each column in it once.
    """
    columns = [
        np.ascontiguousarray(column, dtype=np.float64)
        for meter in meters.values()
        if isinstance(meter, Summed)
        for column in meter.columns
    ]
    keys = [blake2b(column.data).digest() for column in columns]
    distinct = dict(zip(keys, columns, strict=True))
    matrix = np.stack(list(distinct.values()))

    def measure(weights: Weights) -> dict[str, Floats]:
        by_column, wanted = dict(zip(distinct, sums(weights, matrix).T, strict=True)), iter(keys)
        return {
            name: meter.value(*(by_column[key] for key in islice(wanted, len(meter.columns))))
            if isinstance(meter, Summed)
            else meter(weights)
            for name, meter in meters.items()
        }

    return measure


def estimate(meters: Meters, rows: int) -> dict[str, float]:
    """Values on the rows themselves, each counted once."""
    return {name: float(value[0]) for name, value in meters(np.ones((1, rows))).items()}


def ratio(above: Floats, below: Floats) -> Floats:
    """Quotient, NaN where there is nothing to divide by."""
    quotient: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return quotient
