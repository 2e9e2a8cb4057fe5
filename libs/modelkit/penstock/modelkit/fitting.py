"""A training as a file that other processes map into their memory: what `training.train` goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penstock.contracts.pipeline import Trainer
from penstock.modelkit.data_parallel import ProcessGroup
from penstock.modelkit.device import CPU, Device
from penstock.modelkit.family import Epoch, room_for
from penstock.modelkit.network import Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.training import train


@dataclass(frozen=True)
class Fitting:
    """Arguments of `train`, and torch's random state when it is called.

    The rows reach a worker through this file, and no other way.
    """

    network: Trainable
    objective: Objective
    training: Split
    validation: Split
    plan: Trainer
    seed: int
    random: Tensor
    device: Device = CPU

    def write(self, path: Path) -> None:
        """Writes the file, or none. Raises Unavailable on a full disk."""
        beside = path.with_suffix(".new")
        with room_for(beside), beside.open("wb") as file:
            torch.save(self.__dict__, file)
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Fitting:
        """Maps the file: its pages are shared by all that read it, and a process's own where it writes
        to them. Never from a file that others may have written: it holds code's names.
        """
        kept: dict[str, Any] = torch.load(path, mmap=True, weights_only=False)
        return cls(**kept)

    def train(
        self,
        group: ProcessGroup | None = None,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        threads: int = 1,
    ) -> tuple[Epoch, ...]:
        """`training.train`, on so many threads; raises what that does, and PeerLost. The same number of
        threads gives the same bits.
        """
        torch.set_num_threads(threads)
        torch.set_rng_state(self.random)
        try:
            return train(
                self.network,
                self.objective,
                self.training,
                self.validation,
                self.plan,
                seed=self.seed,
                checkpoint=checkpoint,
                on_epoch=on_epoch,
                group=group,
                device=self.device,
            )
        finally:
            torch.set_num_threads(1)
