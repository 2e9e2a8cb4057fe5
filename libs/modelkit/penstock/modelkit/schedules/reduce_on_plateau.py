"""`schedule: {type: reduce_on_plateau}`, as torch's ReduceLROnPlateau."""

from __future__ import annotations

from math import inf

from penstock.contracts.pipeline import PlateauSchedule
from penstock.modelkit.schedules import Moment


def rate(schedule: PlateauSchedule, base: float, moment: Moment) -> float:
    """Counted anew from the losses each time: a resumed run has the same ones."""
    found, best, bad = base, inf, 0
    for loss in moment.losses:
        better = loss < best * (1 - schedule.threshold)
        best, bad = (loss, 0) if better else (best, bad + 1)
        if bad > schedule.patience:
            found, bad = max(found * schedule.factor, min(found, schedule.min_learning_rate)), 0
    return found
