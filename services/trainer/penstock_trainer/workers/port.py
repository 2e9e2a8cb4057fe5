"""The port: the workers of one training, told of as they go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock.modelkit.family import Epoch
from penstock.runtime.jobs import Failure


@dataclass(frozen=True)
class Order:
    """A training for `size` workers. `fitting`: file of a `penstock.modelkit.fitting.Fitting`;
    `checkpoint`: file to go on from, and to write. `steps`: measures so many steps instead.
    """

    fitting: Path
    checkpoint: Path
    size: int
    steps: int = 0


@dataclass(frozen=True)
class Measured:
    """Time of a step, as worker 0 measured it."""

    step_s: float


@dataclass(frozen=True)
class Ended:
    """End of all workers. `failure`: the training's own; `lost`: the worker that died, in words. Without
    either they are done.
    """

    failure: Failure | None = None
    lost: str = ""


class Workers(Protocol):
    """Runs workers. When one dies all of them end: the next order goes on from the checkpoint."""

    def start(self, order: Order) -> None:
        """Starts them; those of an order before have ended. Raises Unavailable where there is no room."""

    def wait(self, timeout_s: float) -> list[Epoch | Measured | Ended]:
        """Tells what happened since the last call, in order; blocks until something does, `timeout_s` at
        most.
        """

    def close(self) -> None:
        """Ends every process; none is left when it returns."""
