"""`schedule: {type: one_cycle}`, as torch's OneCycleLR with `cycle_momentum=False`.

L. N. Smith, N. Topin, *Super-Convergence: Very Fast Training of Neural Networks Using Large
Learning Rates* (arXiv:1708.07120, 2017), in the form of two halves of a cosine.
"""

from __future__ import annotations

import math

from penstock.contracts.pipeline import OneCycleSchedule
from penstock.modelkit.schedules import Moment


def rate(schedule: OneCycleSchedule, base: float, moment: Moment) -> float:
    first = base / schedule.div_factor
    peak, last = max(0.0, schedule.pct_start * moment.steps - 1), moment.steps - 1
    if moment.step < peak:
        return _between(first, base, moment.step / peak)
    fallen = (moment.step - peak) / (last - peak) if last > peak else 0.0
    return _between(base, first / schedule.final_div_factor, fallen)


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine from one to the other."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
