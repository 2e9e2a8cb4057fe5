"""Learning rates: one module a schedule, named by its type; each holds `rate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from penstock.contracts.pipeline import Schedule


@dataclass(frozen=True, slots=True)
class Moment:
    """A step, from 0, of those after the warm-up. `losses`: validation losses of the epochs that have
    ended, warm-up or not; a checkpoint holds them, so no schedule has a state of its own.
    """

    step: int
    steps: int
    steps_per_epoch: int = 1
    losses: Sequence[float] = ()


def learning_rate(schedule: Schedule, base: float, moment: Moment) -> float:
    """The rate at `moment`, whose steps are all of the run: over the warm-up a straight rise from 0
    to where the schedule begins, then as it says.
    """
    rate = import_module(f"{__name__}.{schedule.type}").rate
    warmup = round(schedule.warmup * moment.steps)
    after = Moment(max(0, moment.step - warmup), moment.steps - warmup, moment.steps_per_epoch, moment.losses)
    if moment.step >= warmup:
        found: float = rate(schedule, base, after)
        return found
    first: float = rate(schedule, base, Moment(0, after.steps, after.steps_per_epoch))
    return first * (moment.step + 1) / warmup
