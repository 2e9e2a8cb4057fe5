"""SGD, Adam and AdamW on a module's parameters, all of one step in torch's fused list operations,
and the learning rate of each step.

The same arithmetic as `torch.optim` (a test compares them). Written here because `torch.optim`
drags in torch's compiler on first use, which costs a short run seconds and 160 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from penstock.contracts.pipeline import ConstantSchedule, CosineSchedule, LinearSchedule, Schedule
from penstock.contracts.pipeline import Optimizer as Spec

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Optimizer:
    def __init__(self, parameters: Iterable[Tensor], spec: Spec) -> None:
        self._parameters = list(parameters)
        self._spec = spec
        self._step = 0
        self._first = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._second = (
            [] if spec.type == "sgd" else [torch.zeros_like(parameter) for parameter in self._parameters]
        )

    def clip(self, limit: float) -> None:
        """Scales all gradients so that their common norm is at most `limit`."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        )
        torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step at this learning rate."""
        spec = self._spec
        self._step += 1
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        if spec.type == "adamw":  # Loshchilov, Hutter: Decoupled Weight Decay Regularization (ICLR 2019)
            torch._foreach_mul_(self._parameters, 1 - rate * spec.weight_decay)
        elif spec.weight_decay:
            gradients = list(torch._foreach_add(gradients, self._parameters, alpha=spec.weight_decay))
        if spec.type == "sgd":
            if spec.momentum:
                torch._foreach_mul_(self._first, spec.momentum)
                torch._foreach_add_(self._first, gradients)
                gradients = self._first
            torch._foreach_add_(self._parameters, gradients, alpha=-rate)
            return
        # Kingma, Ba: Adam (ICLR 2015)
        torch._foreach_lerp_(self._first, gradients, 1 - BETA1)
        torch._foreach_mul_(self._second, BETA2)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - BETA2)
        root = torch._foreach_sqrt(self._second)
        torch._foreach_div_(root, (1 - BETA2**self._step) ** 0.5)
        torch._foreach_add_(root, EPSILON)
        torch._foreach_addcdiv_(self._parameters, self._first, root, -rate / (1 - BETA1**self._step))

    def state(self) -> dict[str, Any]:
        return {"step": self._step, "first": self._first, "second": self._second}

    def restore(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._first = state["first"]
        self._second = state["second"]


def learning_rate(schedule: Schedule, base: float, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear rise over the warm-up, then as the
    schedule says.
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return base * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    match schedule:
        case ConstantSchedule():
            return base
        case LinearSchedule():
            return base * (1 - share)
        case CosineSchedule():
            return base * (0.5 * (1 + math.cos(math.pi * share)))
