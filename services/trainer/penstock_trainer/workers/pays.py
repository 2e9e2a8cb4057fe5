"""Choice between one worker, on one thread or on all cores', and several, by the time of the steps that
are to come. Pure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from penstock.modelkit.fitting import Fitting

FEWEST, MOST = 3, 10  # steps that are measured with one worker
SHARE = 200  # of a training's steps one is measured: what is measured is computed once more
BEGIN_S = 5.0  # of several workers, until they are at their first step
MARGIN = 0.95  # of one worker's time that several, or its own threads, must stay below
PROBE_S = 1.0
THREADS_FROM_S = 1.0  # of a training on one thread; below, there is nothing to win


class Choice(NamedTuple):
    """A number of workers, the reason in words, and the threads of one that is alone."""

    workers: int
    because: str
    threads: int = 1


class Alone(NamedTuple):
    """A single worker: seconds of its step, and the threads that it takes."""

    step_s: float
    threads: int = 1

    def or_on(self, threads: int, step_s: float) -> Alone:
        """The worker on more threads, where that is faster."""
        return Alone(step_s, threads) if step_s < MARGIN * self.step_s else self

    def __str__(self) -> str:
        return f"one worker on {self.threads} threads" if self.threads > 1 else "one worker"

    def chosen(self, why: str) -> Choice:
        return Choice(1, f"{self}: {why}", self.threads)


class Probe(NamedTuple):
    """A measurement to make with `workers`, beside the one `alone`; `left`: steps to come."""

    workers: int
    alone: Alone
    left: int

    @property
    def steps(self) -> int:
        """Steps of several workers that are measured."""
        return max(3, min(50, round(PROBE_S / self.alone.step_s)))


def steps_of(fitting: Fitting) -> int:
    """Steps of a whole training."""
    return math.ceil(len(fitting.training.labels) / fitting.plan.step_rows) * fitting.plan.epochs


def measured_of(left: int) -> int:
    """Steps to measure with one worker, of a training of so many."""
    return max(FEWEST, min(MOST, left // SHARE))


def done_before(alone: Alone, left: int) -> Choice | None:
    """A single worker, where to start several and to measure them would cost more than the margin."""
    took, cost = left * alone.step_s, BEGIN_S + PROBE_S
    if cost <= (1 - MARGIN) * took:
        return None
    return alone.chosen(f"it needs at most {took:.1f} s, and to measure several takes {cost:g} s")


def weighed(probe: Probe, together: float) -> Choice:
    """The choice, once a step of several workers took `together` seconds."""
    alone, several = probe.alone, probe.left * together + BEGIN_S
    told = f"a step takes {alone.step_s * 1e3:.2f} ms alone and {together * 1e3:.2f} ms by {probe.workers}"
    if several < MARGIN * probe.left * alone.step_s:
        return Choice(probe.workers, f"{probe.workers} workers: {told}")
    return alone.chosen(told)
