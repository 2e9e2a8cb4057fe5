"""Learning rates over a run. A schedule is its keys in `penstock.contracts.pipeline.trainer` and a
function here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

from penstock.contracts.pipeline import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule


def learning_rate(
    schedule: Schedule, base: float, step: int, steps: int, losses: Sequence[float] = ()
) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear rise over the warm-up, then as the
    schedule says. `losses`: of validation, after each epoch so far.
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return base * (step + 1) / warmup
    return base * factor(schedule, (step - warmup) / max(1, steps - warmup), losses)


@singledispatch
def factor(schedule: Schedule, share: float, losses: Sequence[float]) -> float:
    """Part of the full rate after `share`, 0 to 1, of the steps behind the warm-up."""
    raise NotImplementedError(schedule.type)


@factor.register
def constant(schedule: ConstantSchedule, share: float, losses: Sequence[float]) -> float:
    return 1.0


@factor.register
def linear(schedule: LinearSchedule, share: float, losses: Sequence[float]) -> float:
    return 1 - share


@factor.register
def cosine(schedule: CosineSchedule, share: float, losses: Sequence[float]) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
