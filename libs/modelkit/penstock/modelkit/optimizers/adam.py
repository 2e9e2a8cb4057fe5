"""`optimizer: {type: adam}`: D. P. Kingma, J. Ba, *Adam* (ICLR 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch

from penstock.contracts.pipeline import Adam, Adamw
from penstock.modelkit.optimizers import Optimizer, Tensors

EPSILON = 1e-8

SpecT = TypeVar("SpecT", Adam, Adamw)


class AdaptiveMoments(Optimizer[SpecT]):
    """`kernel`: torch's step of many tensors at once."""

    moments = 2
    kernel: ClassVar[Callable[..., Any]]

    def update(self, gradients: Tensors, rate: float) -> None:
        step = gradients[0].new_full((), self._step)
        for decays in (True, False):
            chosen = [at for at, drawn in enumerate(self._decays) if drawn is decays]
            if not chosen:
                continue
            lists = self._parameters, gradients, self._first, self._second
            self.kernel(
                *([tensors[at] for at in chosen] for tensors in lists),
                [],
                [step] * len(chosen),
                amsgrad=False,
                lr=rate,
                beta1=self._spec.beta1,
                beta2=self._spec.beta2,
                weight_decay=self._spec.weight_decay if decays else 0.0,
                eps=EPSILON,
                maximize=False,
            )


class DecayInGradient(AdaptiveMoments[Adam]):
    kernel = staticmethod(torch._fused_adam_)


OPTIMIZER = DecayInGradient
