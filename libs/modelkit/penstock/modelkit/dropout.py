"""Dropout that chooses alike whoever computes a row: the choice is drawn for a whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Share(NamedTuple):
    """Rows of a batch that are computed together: those from `first` on, of `of`."""

    first: int
    of: int


class Dropout(nn.Dropout):
    """A `share` draws from torch's generator as all rows together do."""

    share: Share | None = None

    def forward(self, value: Tensor) -> Tensor:
        """value: [rows of the share, …]."""
        if not self.training or not self.p:
            return value
        if self.share is None and value.is_cuda:
            return super().forward(value)  # one kernel
        first, of = self.share or Share(0, len(value))
        # On a CPU in a third of the time of `bernoulli_`; BF16 is too coarse for a share.
        drawn = value.new_empty(of, *value.shape[1:], dtype=torch.float32).uniform_()
        mine = drawn[first : first + len(value)] >= self.p
        return value * mine.to(value.dtype).mul_(1 / (1 - self.p))
