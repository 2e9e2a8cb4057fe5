"""`schedule: {type: step}`, as torch's StepLR."""

from __future__ import annotations

from penstock.contracts.pipeline import StepSchedule
from penstock.modelkit.schedules import Moment


def rate(schedule: StepSchedule, base: float, moment: Moment) -> float:
    return base * schedule.gamma ** (moment.step // moment.steps_per_epoch // schedule.step_size)
