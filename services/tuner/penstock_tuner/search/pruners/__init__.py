"""Pruners: which running trial is stopped. A pruner is a file, and a line in `PRUNERS`.

A rung is a share of the epochs that the trial was planned with, whatever it is planned with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from penstock.contracts.pipeline import Asha, MedianStopping
from penstock.contracts.pipeline.base import Model
from penstock.contracts.pipeline.tuner import OneObjective, Search
from penstock_tuner.search.pruners import asha, median
from penstock_tuner.search.tried import Tried


class Pruner(NamedTuple):
    shares: Callable[[Any], Sequence[float]]  # Rungs in rising order
    worse: Callable[[Any, float, Sequence[float]], bool]  # A loss, those of the others at that rung


PRUNERS: Mapping[type[Model], Pruner] = {
    Asha: Pruner(asha.shares, asha.worse),
    MedianStopping: Pruner(median.shares, median.worse),
}


def climbed(tuner: Search, rungs: Sequence[float], epoch: int, epochs: int, loss: float) -> tuple[float, ...]:
    """The trial's losses at its rungs, with those rungs that epoch `epoch` (from 1) of `epochs` reaches."""
    section = tuner.pruner if isinstance(tuner, OneObjective) else None
    pruner = PRUNERS.get(type(section)) if section else None
    reached = sum(epoch >= math.ceil(share * epochs) for share in pruner.shares(section)) if pruner else 0
    return (*rungs, *[loss] * (reached - len(rungs)))


def prunes(tuner: Search, tried: Sequence[Tried], number: int) -> bool:
    """Tells whether the trial shall be stopped at the rung that it reached last. It is compared with
    trials of its family; that of the file's own values is always trained to its end.
    """
    section = tuner.pruner if isinstance(tuner, OneObjective) else None
    pruner = PRUNERS.get(type(section)) if section else None
    mine = next(one for one in tried if one.number == number)
    if pruner is None or number == 0 or not mine.rungs:
        return False
    rung, family = len(mine.rungs) - 1, mine.choices.get("model.type")
    others = [
        one.rungs[rung]
        for one in tried
        if one.number != number and len(one.rungs) > rung and one.choices.get("model.type") == family
    ]
    return not math.isfinite(mine.rungs[rung]) or pruner.worse(section, mine.rungs[rung], others)
