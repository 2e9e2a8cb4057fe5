"""The port: the workers of one training, told of as they go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock.modelkit.family import Epoch
from penstock.runtime.jobs.policy import Failure


@dataclass(frozen=True)
class Order:
    """A training for `size` workers. `fitting`: file of a `penstock.modelkit.fitting.Fitting`;
    `checkpoint`: file to go on from, and to write. `steps`: measures so many steps instead. `gpus`: each
    has one.
    """

    fitting: Path
    checkpoint: Path
    size: int
    steps: int = 0
    gpus: bool = False


@dataclass(frozen=True)
class Measured:
    """Time of a step, as worker 0 measured it."""

    step_s: float


@dataclass(frozen=True)
class Ended:
    """End of all workers. `failure`: the training's own; `lost`: the worker that died, in words, or
    which was left `alone`. Without either they are done.
    """

    failure: Failure | None = None
    lost: str = ""
    alone: bool = False


class Workers(Protocol):
    """Runs workers. When one dies all of them end: the next order goes on from the checkpoint."""

    @property
    def most(self) -> int:
        """Workers that there is room for: free processors. May block for seconds. Raises Unavailable."""

    @property
    def most_gpus(self) -> int:
        """Workers with a GPU each that there is room for. As `most`."""

    def start(self, order: Order) -> int:
        """Starts them, those of an order before having ended, and returns their number: after a death it
        may be smaller than asked for. May block for as long as room is waited for. Raises Unavailable
        where there is none.
        """

    def wait(self, timeout_s: float) -> list[Epoch | Measured | Ended]:
        """Tells what happened since the last call, in order; blocks until something does, `timeout_s` at
        most.
        """

    def close(self) -> None:
        """Ends every process; none is left when it returns."""
