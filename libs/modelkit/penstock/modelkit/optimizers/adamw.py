"""`optimizer: {type: adamw}`.

I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization* (ICLR 2019).
"""

from __future__ import annotations

import torch

from penstock.contracts.pipeline import Adamw
from penstock.modelkit.optimizers import Tensors
from penstock.modelkit.optimizers.adam import AdaptiveMoments


class DecayBeside(AdaptiveMoments[Adamw]):
    def update(self, gradients: Tensors, rate: float) -> None:
        kept = 1 - rate * self._spec.weight_decay
        torch._foreach_mul_(self._parameters, [kept if drawn else 1.0 for drawn in self._decays])
        self.adapt(gradients, rate)


OPTIMIZER = DecayBeside
