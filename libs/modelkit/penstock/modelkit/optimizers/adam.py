"""`optimizer: {type: adam}`: D. P. Kingma, J. Ba, *Adam* (ICLR 2015)."""

from __future__ import annotations

from typing import TypeVar

import torch

from penstock.contracts.pipeline import Adam, Adamw
from penstock.modelkit.optimizers import Optimizer, Tensors

EPSILON = 1e-8

SpecT = TypeVar("SpecT", Adam, Adamw)


class AdaptiveMoments(Optimizer[SpecT]):
    moments = 2

    def adapt(self, gradients: Tensors, rate: float) -> None:
        beta1, beta2 = self._spec.beta1, self._spec.beta2
        torch._foreach_lerp_(self._first, gradients, 1 - beta1)
        torch._foreach_mul_(self._second, beta2)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - beta2)
        root = torch._foreach_sqrt(self._second)
        torch._foreach_div_(root, (1 - beta2**self._step) ** 0.5)
        torch._foreach_add_(root, EPSILON)
        torch._foreach_addcdiv_(self._parameters, self._first, root, -rate / (1 - beta1**self._step))


class DecayInGradient(AdaptiveMoments[Adam]):
    def update(self, gradients: Tensors, rate: float) -> None:
        self.adapt(self.decayed(gradients), rate)


OPTIMIZER = DecayInGradient
