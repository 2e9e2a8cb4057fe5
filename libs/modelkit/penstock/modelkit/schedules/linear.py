"""`schedule: {type: linear}`, as torch's LinearLR with `start_factor=1, end_factor=0`."""

from __future__ import annotations

from penstock.contracts.pipeline import LinearSchedule
from penstock.modelkit.schedules import Moment


def rate(_schedule: LinearSchedule, base: float, moment: Moment) -> float:
    return base * (1 - moment.step / max(1, moment.steps))
