"""`schedule: {type: cosine}`, as torch's CosineAnnealingLR with `eta_min=0`.

I. Loshchilov, F. Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts* (ICLR 2017),
without restarts.
"""

from __future__ import annotations

import math

from penstock.contracts.pipeline import CosineSchedule
from penstock.modelkit.schedules import Moment


def rate(_schedule: CosineSchedule, base: float, moment: Moment) -> float:
    return base * (0.5 * (1 + math.cos(math.pi * (moment.step / max(1, moment.steps)))))
