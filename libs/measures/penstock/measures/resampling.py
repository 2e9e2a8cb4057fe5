"""Bootstrap draws (Efron and Tibshirani 1993; Davison and Hinkley 1997).

Drawn are rows, as weights, or entities where one entity has several rows, for its rows are not
independent (cluster bootstrap). A measure that conditions on a stratum keeps it, so that no draw
has an empty cell: true and false positive rates keep each cell (group x label), selection rates and
a group's own measures the group.

Rates are shares of counts, and what independent rows give when drawn anew is multinomial: their
counts are drawn, not the rows, so that a million rows cost what a thousand do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.measures.scores import Codes, Floats

_VALUES_AT_ONCE = 1_000_000  # Weights held in memory at a time: 1 MB, 8 MB as floats.

Seed = np.random.SeedSequence | np.random.Generator


def draws(units: Codes, resamples: int, seed: Seed) -> Iterator[NDArray[np.uint8]]:
    """Weights [r, N] in pieces, `resamples` rows of them in all. `units` [N]: entities from 0, each of
    which is drawn with all its rows.
    """
    generator = np.random.default_rng(seed)
    n = len(units)
    entities = int(units.max()) + 1 if n else 0
    at_once = max(1, _VALUES_AT_ONCE // max(n, 1))
    for start in range(0, resamples, at_once):
        r = min(at_once, resamples - start)
        drawn = generator.integers(0, entities or 1, size=(r, entities), dtype=np.int64)
        drawn += np.arange(r, dtype=np.int64)[:, None] * entities
        # An entity drawn 256 times or more would be one in 10^500 draws.
        weights = np.bincount(drawn.ravel(), minlength=r * entities).reshape(r, entities).astype(np.uint8)
        yield weights[:, units] if entities < n else weights


def redraws(counts: Codes, kept: int, resamples: int, seed: Seed) -> Iterator[Floats]:
    """Counts [r, …] of independent rows drawn anew, in pieces, `resamples` of them in all.

    `counts`: rows by cell; the sums over all but the first `kept` axes stay as they are.
    """
    generator = np.random.default_rng(seed)
    strata = counts.reshape(*counts.shape[:kept], -1)
    rows = strata.sum(axis=-1)
    shares = np.divide(
        strata, rows[..., None], out=np.full(strata.shape, 1 / strata.shape[-1]), where=rows[..., None] > 0
    )
    at_once = max(1, _VALUES_AT_ONCE // max(counts.size, 1))
    for start in range(0, resamples, at_once):
        r = min(at_once, resamples - start)
        drawn = generator.multinomial(rows, shares, size=(r, *rows.shape))
        yield drawn.reshape(r, *counts.shape).astype(np.float64)


def collect(
    pieces: Iterator[NDArray[Any]], measure: Callable[[NDArray[Any]], dict[str, Floats]]
) -> dict[str, Floats]:
    """`measure` of every piece, joined by name along the draws; the next piece is drawn meanwhile."""
    measured: list[dict[str, Floats]] = []
    with ThreadPoolExecutor(max_workers=1) as measuring:
        under_way: Future[dict[str, Floats]] | None = None
        for piece in pieces:
            if under_way:
                measured.append(under_way.result())
            under_way = measuring.submit(measure, piece)
        if under_way:
            measured.append(under_way.result())
    names = measured[0] if measured else ()
    return {name: np.concatenate([piece[name] for piece in measured]) for name in names}
