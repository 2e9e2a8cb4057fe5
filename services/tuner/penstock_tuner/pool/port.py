"""The port: trials at once, each on its own, told of as they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from penstock.contracts.events import Cost
from penstock.contracts.pipeline import Pipeline
from penstock.runtime.jobs.policy import Failure
from penstock_tuner.trials.measured import Measured


@dataclass(frozen=True)
class Reported:
    """An epoch of a trial's first fit, as `penstock.modelkit.family.Epoch` has it."""

    number: int
    epoch: int
    epochs: int
    validation_loss: float
    validation_metric: float
    metric: str


@dataclass(frozen=True)
class Ended:
    """End of a trial: it was measured, or failed, or was stopped. `cost`: as far as it is known."""

    number: int
    measured: Measured | None = None
    failure: Failure | None = None
    stopped: bool = False
    cost: Cost = field(default_factory=Cost)


class TrialPool(Protocol):
    """Runs trials. Whatever one does, dies, hangs, takes all memory, is its own end and no other's."""

    @property
    def free(self) -> int:
        """Number of trials that may be started now."""

    def start(self, number: int, pipeline: Pipeline) -> None:
        """Starts a trial of `pipeline`, overridden and planned. Raises Conflict where none is free, or
        the number runs.
        """

    def wait(self, timeout_s: float) -> list[Reported | Ended]:
        """Tells what happened since the last call, in order; blocks until something does, `timeout_s` at
        most. To be called often: bounds of trials are watched here.
        """

    def stop(self, number: int) -> None:
        """Ends a trial; its end is told by `wait`. One that has ended stays as it is."""

    def close(self) -> None:
        """Ends all trials and every process of the pool; none is left when it returns."""
