"""A perfectly fair model in the same cells: chance alone sets its groups apart, the more the fewer rows
there are. It says what a limit can be asked of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock.contracts.measures import MEASURES
from penstock.measures.fairness import CONTRASTS, RATES, Rates, extreme
from penstock.measures.scores import Codes, Floats

AUDITS = 200
RESAMPLES = 100
MOST_CONTRASTS = 500  # that are drawn AUDITS x RESAMPLES times: 80 MB
MOST_PASS = 0.8  # share of fair models that a limit should let pass


def shared(cells: Codes, of_interest: Sequence[int]) -> Rates:
    """[1, groups, classes of interest]: the rows that each rate is a share of, from `cells` [groups,
    classes]: the rows of each group by label.
    """
    own = cells[None].astype(np.float64)
    of = own[..., list(of_interest)]
    total = np.broadcast_to(own.sum(axis=2, keepdims=True), of.shape)
    return Rates(**{name: rate.rows(total, of) for name, rate in RATES.items()})


def halfway(cells: Codes, of_interest: Sequence[int]) -> Rates:
    """[1, 1, classes]: rates of a fair model halfway between guessing and knowing, which gives each class
    as often as it occurs in `cells` [groups, classes].
    """
    share = (cells.sum(axis=0) / max(1, cells.sum()))[None, None, list(of_interest)]
    return Rates(**{name: rate.fair(share) for name, rate in RATES.items()})


def fair_rates(rows: Rates, common: Rates, seed: int) -> Rates | None:
    """Rates [RESAMPLES * AUDITS, groups, classes of interest] in resamples of audits of a fair model;
    simulated, NaN where a cell is empty. None with more than MOST_CONTRASTS.

    `rows` [1, groups, classes of interest]: those that each rate is a share of. `common`
    [1, 1, classes]: the rates that all groups truly have.
    """
    _, groups, classes = rows.selection.shape
    if groups * (groups - 1) * classes > MOST_CONTRASTS:
        return None
    generator = np.random.default_rng(seed)
    drawn = []
    for of in RATES:
        counts = getattr(rows, of)[0].astype(np.int64)
        truth = np.nan_to_num(np.broadcast_to(getattr(common, of)[0], counts.shape))
        hits = generator.binomial(counts, truth, (AUDITS, *counts.shape))
        seen = (hits + 0.5) / (counts + 1)  # a cell without a hit is not known for sure
        again = generator.binomial(counts, seen, (RESAMPLES, AUDITS, *counts.shape))
        with np.errstate(invalid="ignore"):
            drawn.append(again.reshape(-1, *counts.shape) / counts)
    return Rates(*drawn)


def fair_bounds(name: str, drawn: Rates, confidence: float) -> Floats | None:
    """Bounds [AUDITS] of a measure on the side away from parity that audits of a fair model show, rising.
    None where a cell is empty. `drawn`: by `fair_rates`, for all measures.
    """
    contrasts = CONTRASTS[name](drawn)
    if np.isnan(contrasts).any():
        return None
    values = extreme(name, contrasts).reshape(RESAMPLES, AUDITS)
    tail = (1 - confidence) / 2
    end = tail if MEASURES[name].higher_is_better else 1 - tail
    bounds: Floats = np.sort(np.quantile(values, end, axis=0))
    return bounds


def rows_needed(rows: int, mostly: float, limit: float) -> int:
    """Audit rows, of the same groups and labels, with which a share of MOST_PASS of fair models keeps the
    limit of a difference, above 0. `mostly`: the bound that so many keep on `rows` rows; it narrows
    with their root. Two digits count.
    """
    needed = max(rows * (mostly / limit) ** 2, 1.0)
    digits = int(10 ** max(0, int(math.log10(needed)) - 1))
    return math.ceil(needed / digits) * digits
