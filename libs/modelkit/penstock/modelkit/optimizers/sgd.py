"""`optimizer: {type: sgd}`."""

from __future__ import annotations

import torch

from penstock.contracts.pipeline import Sgd
from penstock.modelkit.optimizers import Optimizer, Tensors


class StochasticGradientDescent(Optimizer[Sgd]):
    def update(self, gradients: Tensors, rate: float) -> None:
        gradients, momentum = self.decayed(gradients), self._spec.momentum
        if momentum:
            torch._foreach_mul_(self._first, momentum)
            torch._foreach_add_(self._first, gradients)
            if self._spec.nesterov:
                gradients = list(torch._foreach_add(gradients, self._first, alpha=momentum))
            else:
                gradients = self._first
        torch._foreach_add_(self._parameters, gradients, alpha=-rate)


OPTIMIZER = StochasticGradientDescent
