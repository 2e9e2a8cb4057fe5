"""Choice between one worker and several, by the time of the steps that are to come. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from penstock.modelkit.fitting import Fitting

STEPS = 10  # that are measured with one worker
BEGIN_S = 5.0  # of several workers, until they are at their first step
MARGIN = 0.95  # of one worker's time that several must stay below
PROBE_S = 1.0


class Choice(NamedTuple):
    """A number of workers, and the reason in words."""

    workers: int
    because: str


class Probe(NamedTuple):
    """A measurement to make with `workers`; `alone`: seconds of a step of one; `left`: steps to come."""

    workers: int
    alone: float
    left: int

    @property
    def steps(self) -> int:
        """Steps of several workers that are measured."""
        return max(3, min(50, round(PROBE_S / self.alone)))


def steps_of(fitting: Fitting) -> int:
    """Steps of a whole training."""
    return math.ceil(len(fitting.training.labels) / fitting.plan.step_rows) * fitting.plan.epochs


def done_before(alone: float, left: int) -> Choice | None:
    """One worker, where it is done before several have begun."""
    if left * alone >= 2 * BEGIN_S:
        return None
    return Choice(1, f"one worker: it needs at most {left * alone:.1f} s, and several {BEGIN_S:g} s to begin")


def weighed(probe: Probe, together: float) -> Choice:
    """The choice, once a step of several workers took `together` seconds."""
    one, several = probe.left * probe.alone, probe.left * together + BEGIN_S
    told = f"a step takes {probe.alone * 1e3:.2f} ms alone and {together * 1e3:.2f} ms by {probe.workers}"
    if several < MARGIN * one:
        return Choice(probe.workers, f"{probe.workers} workers: {told}")
    return Choice(1, f"one worker: {told}")
