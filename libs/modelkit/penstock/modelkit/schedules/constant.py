"""`schedule: {type: constant}`."""

from __future__ import annotations

from penstock.contracts.pipeline import ConstantSchedule
from penstock.modelkit.schedules import Moment


def rate(_schedule: ConstantSchedule, base: float, _moment: Moment) -> float:
    return base
