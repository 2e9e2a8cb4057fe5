"""Dropout that chooses alike whoever computes a row: the choice is drawn for a whole batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Share(NamedTuple):
    """Rows of a batch that are computed together: those from `first` on, of `of`."""

    first: int
    of: int


class Dropout(nn.Dropout):
    """torch's, from whose generator a `share` draws as all rows together do."""

    share: Share | None = None

    def forward(self, value: Tensor) -> Tensor:
        """value: [rows of the share, …]."""
        if self.share is None or not self.training or not self.p:
            return super().forward(value)
        drawn = value.new_empty(self.share.of, *value.shape[1:]).bernoulli_(1 - self.p)
        mine = drawn[self.share.first : self.share.first + len(value)]
        return value * mine.div(1 - self.p)  # a tensor of its own: the whole batch's is let go
