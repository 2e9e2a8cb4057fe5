"""Bootstrap draws as row weights (Efron and Tibshirani 1993; Davison and Hinkley 1997).

Drawn are rows, or entities where one entity has several rows, for its rows are not independent
(cluster bootstrap). A measure that conditions on a stratum is drawn within it, so that no draw has
an empty cell: true and false positive rates within each cell (group x label), selection rates and a
group's own measures within the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from penstock.measures.scores import Codes, Floats

_VALUES_AT_ONCE = 2_000_000  # Weights held in memory at a time: 16 MB.

Seed = np.random.SeedSequence | np.random.Generator


def draws(units: Codes, strata: Codes | None, resamples: int, seed: Seed) -> Iterator[Floats]:
    """Weights [r, N] in pieces, `resamples` rows of them in all.

    `units` [N] are entities from 0; `strata` [N] are kept at their size. Where an entity has several
    rows, entities are drawn and strata are not kept: an entity's rows may lie in several.
    """
    generator = np.random.default_rng(seed)
    n = len(units)
    entities = int(units.max()) + 1 if n else 0
    at_once = max(1, _VALUES_AT_ONCE // max(n, 1))
    clustered = entities < n
    parts = (
        [np.arange(entities)]
        if clustered or strata is None
        else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    )
    for start in range(0, resamples, at_once):
        r = min(at_once, resamples - start)
        weights = np.zeros((r, entities if clustered else n))
        for members in parts:
            m = len(members)
            drawn = generator.integers(0, m, size=(r, m), dtype=np.int64)
            drawn += np.arange(r, dtype=np.int64)[:, None] * m
            weights[:, members] = np.bincount(drawn.ravel(), minlength=r * m).reshape(r, m)
        yield weights[:, units] if clustered else weights


def collect(weights: Iterator[Floats], measure: Callable[[Floats], dict[str, Floats]]) -> dict[str, Floats]:
    """`measure` of every piece, joined by name along the draws."""
    pieces = [measure(piece) for piece in weights]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}
