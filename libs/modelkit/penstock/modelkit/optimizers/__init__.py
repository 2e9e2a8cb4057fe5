"""Optimizers: one module each, named by its type, that holds `OPTIMIZER`.

The same arithmetic as `torch.optim` (a test compares them), all parameters of one step in torch's
fused list operations. Written here because `torch.optim` drags in torch's compiler on first use,
which costs a short run seconds and 160 MB.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from penstock.contracts.pipeline import Optimizer as Spec

SpecT = TypeVar("SpecT", bound=Spec)
Tensors = list[Tensor]


class Optimizer(ABC, Generic[SpecT]):
    """Steps on parameters; `moments` running means of as many kinds, zeros at first. `decays` says of
    each parameter whether weight decay is for it; by default of all.
    """

    moments = 1

    def __init__(
        self, parameters: Iterable[Tensor], spec: SpecT, decays: Sequence[bool] | None = None
    ) -> None:
        self._parameters = list(parameters)
        self._decays = decays or [True] * len(self._parameters)
        self._spec = spec
        self._step = 0
        self._first = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._second = (
            [torch.zeros_like(parameter) for parameter in self._parameters] if self.moments > 1 else []
        )

    @abstractmethod
    def update(self, gradients: Tensors, rate: float) -> None:
        """Changes the parameters by these gradients."""

    def clip(self, limit: float) -> None:
        """Scales all gradients so that their common norm is at most `limit`."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        )
        torch._foreach_mul_(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """A step at this learning rate."""
        self._step += 1
        self.update([torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters], rate)

    def decayed(self, gradients: Tensors) -> Tensors:
        """Gradients with weight decay as part of them: that of a penalty on the weights' squares."""
        if not (decay := self._spec.weight_decay):
            return gradients
        drawn = [decay * drawn for drawn in self._decays]
        return list(torch._foreach_add(gradients, torch._foreach_mul(self._parameters, drawn)))

    def state(self) -> dict[str, Any]:
        return {"step": self._step, "first": self._first, "second": self._second}

    def restore(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._first = state["first"]
        self._second = state["second"]


def optimizer_of(
    parameters: Iterable[Tensor], spec: Spec, decays: Sequence[bool] | None = None
) -> Optimizer[Any]:
    found: type[Optimizer[Any]] = import_module(f"{__name__}.{spec.type}").OPTIMIZER
    return found(parameters, spec, decays)
