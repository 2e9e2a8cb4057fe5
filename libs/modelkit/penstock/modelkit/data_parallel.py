"""Data-parallel SGD: m workers hold the same weights θ, each takes its share of a batch's rows, and all
step by the batch's gradient, θ ← θ − η · (1/m) Σ ∂L/∂θ.

What workers add up are sums over rows, of losses times weights, of weights, of a penalty's cells,
never means: their shares differ in size and in what rows weigh. So the result is that of one
process, to rounding, for any m, dropout included; the same m gives the same bits.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch
from torch import Tensor

from penstock.modelkit.dropout import Dropout, Share
from penstock.modelkit.gradients import Waits, flat_gradients, share_of
from penstock.modelkit.network import Tensors, Trainable
from penstock.modelkit.objective import LEAST, Objective, Split, positive


class ProcessGroup(Protocol):
    """Workers that compute together, numbered from 0. Calls block until all have made the same one;
    they raise PeerLost when one does not within a deadline.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def add(self, values: Tensor) -> None:
        """Replaces `values` by their sum over all workers, in the same order of adding each time."""

    def lead(self, values: Tensor) -> None:
        """Replaces `values` by those of worker 0."""


class DataParallel:
    """The `Gradients` of one worker of a group."""

    def __init__(
        self, network: Trainable, objective: Objective, training: Split, group: ProcessGroup
    ) -> None:
        self._network, self._objective, self._training = network, objective, training
        self._group = group
        self._flat = flat_gradients(network, more=2)
        self._dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
        self.waits = Waits()

    @property
    def leads(self) -> bool:
        return self._group.rank == 0

    @property
    def workers(self) -> int:
        return self._group.size

    def of(self, rows: Tensor) -> Tensor:
        network, training, flat = self._network, self._training, self._flat
        flat.zero_()
        began = time.perf_counter()
        first, end = self._share(len(rows))
        mine = rows[first:end]
        # Without a share, one row that counts nothing: the next draws are the others' too.
        batch = training.features.batch(mine if len(mine) else rows[:1])
        labels, groups, weights = training.known(mine.repeat_interleave(network.members))
        self.waits.data += time.perf_counter() - began
        for dropout in self._dropouts:
            dropout.share = Share(min(first, len(rows) - 1), len(rows))
        logits = network(*batch)[: len(labels)]
        total, weight = self._objective.sums(logits, labels, weights)
        flat[-2], flat[-1] = total.detach(), weight
        penalty = flat.new_zeros(())
        if self._objective.penalty is not None and groups is not None:
            found, whole = self._penalty(logits, labels, groups, weight)
            penalty, total = found.detach(), total + whole * found
        total.backward()  # type: ignore[no-untyped-call]
        self._add(flat)
        flat /= flat[-1].clamp_min(LEAST)
        return flat[-2] + penalty

    def answers(self, features: Tensors) -> Tensor:
        for one in (*self._network.parameters(), *self._network.buffers()):
            self._group.lead(one.detach())  # another kind of processor rounds otherwise
        count = len(features.dense)
        first, end = self._share(count)
        mine = self._network.predict(features.between(first, end))
        found = mine.new_zeros(count, mine.shape[1])
        found[first:end] = mine
        self._add(found)
        return found

    def agreed(self, figures: Tensor) -> Tensor:
        told = figures.to(self._flat.device)
        self._group.lead(told)
        return told

    def _penalty(
        self, logits: Tensor, labels: Tensor, groups: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The batch's penalty, whose gradient is that of this share's rows, and the batch's weight."""
        penalty = self._objective.penalty
        assert penalty is not None
        counts, sums = penalty.cells(positive(logits), labels, groups)
        told = torch.cat([counts.flatten(), sums.detach().flatten(), weight.reshape(1)])
        self._add(told)
        every, whole = (part.view_as(counts) for part in told[:-1].chunk(2))
        return penalty.of(every, sums + (whole - sums.detach())), told[-1].clamp_min(LEAST)

    def _share(self, count: int) -> tuple[int, int]:
        return share_of(count, self._group.rank, self._group.size)

    def _add(self, values: Tensor) -> None:
        began = time.perf_counter()
        self._group.add(values)
        self.waits.communication += time.perf_counter() - began
