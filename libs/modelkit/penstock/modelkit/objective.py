"""The loss that a network is trained to lower, as sums over rows, so that several may add theirs up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from penstock.contracts.measures import Task
from penstock.modelkit.device import has_room
from penstock.modelkit.fairness import Penalty
from penstock.modelkit.intervals import Quantiles
from penstock.modelkit.metrics import of_epoch
from penstock.modelkit.network import Tensors

LEAST = 1e-12  # weight of a batch whose rows all have none


@dataclass(frozen=True, slots=True)
class Split:
    """A part, ready for the network. Labels: int64 class indices, or float32 standardised values,
    [N]. Groups: int64 [N], only with a penalty. Weights: float32 [N], where rows have some.
    """

    features: Tensors
    labels: Tensor
    groups: Tensor | None = None
    weights: Tensor | None = None

    def at(self, place: torch.device) -> Split:
        """Split for a network on that processor. Its inputs are moved where they find room there, else each
        batch is.
        """
        if place.type == "cpu":
            return self
        size = sum(part.nbytes for part in self.features.contents())
        moved = self.features.moved(place) if has_room(place, size) else replace(self.features, place=place)
        return Split(moved, self.labels.to(place), _moved(self.groups, place), _moved(self.weights, place))

    def known(self, rows: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Labels, groups and weights of these rows."""
        groups = None if self.groups is None else self.groups[rows]
        return self.labels[rows], groups, None if self.weights is None else self.weights[rows]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss to minimise. `spread`: one standard deviation of a regression's target, in its unit.
    `quantiles`: those that a regression's second and third output are fitted to.
    """

    task: Task
    class_weights: Tensor | None = None  # float32 [k]
    penalty: Penalty | None = None
    spread: float = 1.0
    quantiles: Quantiles | None = None

    def at(self, place: torch.device) -> Self:
        """Objective of answers on that processor."""
        return replace(self, class_weights=_moved(self.class_weights, place))

    def loss(
        self, logits: Tensor, labels: Tensor, groups: Tensor | None, weights: Tensor | None = None
    ) -> Tensor:
        """The mean over rows, each weighed by its own weight and its class's; plus the penalty, which
        compares groups as they are.
        """
        total, weight = self.sums(logits, labels, weights)
        loss = total / weight.clamp_min(LEAST)
        if self.penalty is not None and groups is not None:
            loss = loss + self.penalty(positive(logits), labels, groups)
        return loss

    def sums(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rows' losses times their weights, added up, and the sum of the weights; of no rows 0."""
        rows = self.of_rows(logits, labels)
        if self.class_weights is not None:
            of_class = self.class_weights[labels]
            weights = of_class if weights is None else weights * of_class
        if weights is None:
            return rows.sum(), rows.new_tensor(float(len(rows)))
        return (rows * weights).sum(), weights.sum()

    def of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row, [B]."""
        if self.task == "regression":
            rows = functional.mse_loss(logits[:, 0], labels, reduction="none")
            if self.quantiles:
                away = labels[:, None] - logits[:, 1:]
                shares = away.new_tensor(self.quantiles)
                rows = rows + torch.maximum(shares * away, (shares - 1) * away).sum(dim=1)
            return rows
        if self.task == "multiclass":
            return functional.cross_entropy(logits, labels, reduction="none")
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), reduction="none"
        )

    def measured(self, logits: Tensor, labels: Tensor) -> tuple[str, float]:
        """Name and value of the training curve's measure."""
        known, answers = labels.cpu().numpy(), logits.cpu().numpy()
        return of_epoch(self.task, known * self.spread, answers * self.spread)


def _moved(values: Tensor | None, place: torch.device) -> Tensor | None:
    return None if values is None else values.to(place)


def positive(logits: Tensor) -> Tensor:
    """Probability of the positive class, [B]."""
    return torch.sigmoid(logits[:, 0])
