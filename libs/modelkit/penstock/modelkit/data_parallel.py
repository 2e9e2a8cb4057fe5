"""Data-parallel SGD: m workers hold the same weights θ, each takes its share of a batch's rows, and all
step by the batch's gradient, θ ← θ − η · (1/m) Σ ∂L/∂θ.

What workers add up are sums over rows, of losses times weights, of weights, of a penalty's cells,
never means: their shares differ in size and in what rows weigh. So the result is that of one
process, to rounding, for any m, dropout included; the same m gives the same bits.

So one process adds up, too, where a step's rows are more than it computes at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from penstock.contracts.pipeline import Trainer
from penstock.modelkit.device import CPU, Device, random_state, restore_random_state
from penstock.modelkit.dropout import Dropout, Share
from penstock.modelkit.gradients import Alone, Gradients, Waits, flat_gradients, share_of
from penstock.modelkit.network import Tensors, Trainable
from penstock.modelkit.objective import LEAST, Objective, Split, positive
from penstock.modelkit.order import Batch


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


class Solo:
    """The group of a process that has no others."""

    rank, size = 0, 1

    def add(self, values: Tensor) -> None:
        pass

    def lead(self, values: Tensor) -> None:
        pass


class DataParallel:
    """The `Gradients` of one worker of a group, which computes `most` rows of its share at once."""

    def __init__(
        self,
        network: Trainable,
        objective: Objective,
        training: Split,
        group: ProcessGroup,
        most: int,
        device: Device = CPU,
    ) -> None:
        self._network, self._objective, self._training = network, objective, training
        self._group, self._most, self._forward = group, most, device.forward(network)
        self._flat = flat_gradients(network, more=2)
        self._dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
        self.waits = Waits()

    @property
    def leads(self) -> bool:
        return self._group.rank == 0

    @property
    def workers(self) -> int:
        return self._group.size

    def of(self, batch: Batch) -> Tensor:
        flat = self._flat
        flat.zero_()
        first, end = self._share(len(batch.rows))
        parts = [(at, min(at + self._most, end)) for at in range(first, end, self._most)] or [(first, end)]
        random = random_state(flat.device) if len(parts) > 1 else None
        cells = None if random is None else self._cells_of(batch, parts, random)
        penalty = flat.new_zeros(())
        for part in parts:
            if random is not None:
                restore_random_state(flat.device, random)  # each draws the whole batch's dropout
            penalty = self._gradient(batch, part, cells)
        self._add(flat)
        flat /= flat[-1].clamp_min(LEAST)
        return flat[-2] + penalty

    def _gradient(self, batch: Batch, part: tuple[int, int], cells: Tensor | None) -> Tensor:
        """Adds a part's gradient, loss and weight to the step's; returns the whole batch's penalty, for
        which `cells` are all parts', where these are several.
        """
        flat = self._flat
        logits, labels, groups, weights = self._passed(batch, part)
        total, weight = self._objective.sums(logits, labels, weights)
        flat[-2] += total.detach()
        flat[-1] += weight
        found = flat.new_zeros(())
        if self._objective.penalty is not None and groups is not None:
            found, whole = self._penalty(logits, labels, groups, weight, cells)
            total = total + whole * found
        total.backward()  # type: ignore[no-untyped-call]
        return found.detach()

    def _passed(
        self, batch: Batch, part: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Logits, labels, groups and weights of these of the rows."""
        began = time.perf_counter()
        (first, end), count = part, len(batch.rows)
        # Without a share, one row that counts nothing: the next draws are the others' too.
        cut = (batch.between(first, end) if first < end else batch.between(0, 1)).cut()
        known = self._training.known(batch.rows[first:end].repeat_interleave(self._network.members))
        self.waits.data += time.perf_counter() - began
        for dropout in self._dropouts:
            dropout.share = Share(min(first, count - 1), count)
        return self._forward(*cut)[: len(known[0])], *known

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
        self, logits: Tensor, labels: Tensor, groups: Tensor, weight: Tensor, cells: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The batch's penalty, whose gradient is that of these rows, and the batch's weight."""
        penalty = self._objective.penalty
        assert penalty is not None
        counts, sums = penalty.cells(positive(logits), labels, groups)
        told = _told(counts, sums, weight) if cells is None else cells
        if cells is None:
            self._add(told)
        every, whole = (part.view_as(counts) for part in told[:-1].chunk(2))
        return penalty.of(every, sums + (whole - sums.detach())), told[-1].clamp_min(LEAST)

    @torch.no_grad()
    def _cells_of(
        self, batch: Batch, parts: Sequence[tuple[int, int]], random: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The penalty's cells of the whole batch and its weight, by a pass of their own; None without a
        penalty.
        """
        penalty = self._objective.penalty
        if penalty is None or self._training.groups is None:
            return None
        found = []
        for part in parts:
            restore_random_state(self._flat.device, random)
            logits, labels, groups, weights = self._passed(batch, part)
            assert groups is not None
            _, weight = self._objective.sums(logits, labels, weights)
            found.append(_told(*penalty.cells(positive(logits), labels, groups), weight))
        told = torch.stack(found).sum(dim=0)
        self._add(told)
        return told

    def _share(self, count: int) -> tuple[int, int]:
        return share_of(count, self._group.rank, self._group.size)

    def _add(self, values: Tensor) -> None:
        began = time.perf_counter()
        self._group.add(values)
        self.waits.communication += time.perf_counter() - began


def _told(counts: Tensor, sums: Tensor, weight: Tensor) -> Tensor:
    """Cells of a penalty and a weight, flat."""
    return torch.cat([counts.flatten(), sums.detach().flatten(), weight.reshape(1)])


def gradients_of(
    network: Trainable,
    objective: Objective,
    training: Split,
    plan: Trainer,
    group: ProcessGroup | None = None,
    device: Device = CPU,
) -> Gradients:
    """The gradients of steps that go by the plan, by this process alone or as one of a group."""
    if group is None and plan.gradient_accumulation == 1:
        return Alone(network, objective, training, device)
    return DataParallel(network, objective, training, group or Solo(), plan.batch_size, device)
