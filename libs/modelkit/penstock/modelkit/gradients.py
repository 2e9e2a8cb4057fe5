"""Gradients of a batch and answers to a split, computed by this process alone: one of two ways, the
other is `penstock.modelkit.data_parallel`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from penstock.modelkit.device import CPU, Device
from penstock.modelkit.network import Tensors, Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.order import Batch


@dataclass(slots=True)
class Waits:
    """Seconds that went into cutting batches from the data, and into talking to other workers."""

    data: float = 0.0
    communication: float = 0.0


class Gradients(Protocol):
    """Passes through a network in training, each over a batch or a split as a whole, whoever computes."""

    waits: Waits

    @property
    def workers(self) -> int:
        """Processes that compute them."""

    @property
    def leads(self) -> bool:
        """True in the one process that writes checkpoints and tells of epochs."""

    def of(self, batch: Batch) -> Tensor:
        """Puts the gradient of these rows of the training split where the parameters have it; returns
        their loss, one number.
        """

    def answers(self, features: Tensors) -> Tensor:
        """The network's answers to all rows, without dropout."""

    def agreed(self, figures: Tensor) -> Tensor:
        """The leader's figures: what follows from them is decided once."""


class Alone:
    leads, workers = True, 1

    def __init__(
        self, network: Trainable, objective: Objective, training: Split, device: Device = CPU
    ) -> None:
        self._network, self._objective, self._training = network, objective, training
        self._forward = device.forward(network)
        self._parameters = [*network.parameters()]
        self.waits = Waits()

    def of(self, batch: Batch) -> Tensor:
        network = self._network
        for parameter in self._parameters:  # `zero_grad` looks for them in all modules, each time
            parameter.grad = None
        began = time.perf_counter()
        cut, rows = batch.cut(), batch.rows
        repeated = rows if network.members == 1 else rows.repeat_interleave(network.members)
        labels, groups, weights = self._training.known(repeated)
        self.waits.data += time.perf_counter() - began
        loss = self._objective.loss(self._forward(*cut), labels, groups, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def answers(self, features: Tensors) -> Tensor:
        return self._network.predict(features)

    def agreed(self, figures: Tensor) -> Tensor:
        return figures


def share_of(count: int, rank: int, size: int) -> tuple[int, int]:
    """First row and end of a worker's share of `count` rows: in order, their sizes differ by 1 at most."""
    return count * rank // size, count * (rank + 1) // size


def flat_gradients(network: Trainable, more: int) -> Tensor:
    """A vector that all gradients are views of, and `more` numbers behind them."""
    parameters = [*network.parameters()]
    flat = parameters[0].new_zeros(sum(one.numel() for one in parameters) + more)
    at = 0
    for one in parameters:
        one.grad = flat[at : at + one.numel()].view_as(one)
        at += one.numel()
    return flat
