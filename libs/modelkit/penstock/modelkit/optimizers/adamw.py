"""`optimizer: {type: adamw}`.

I. Loshchilov, F. Hutter, *Decoupled Weight Decay Regularization* (ICLR 2019).
"""

from __future__ import annotations

import torch

from penstock.contracts.pipeline import Adamw
from penstock.modelkit.optimizers.adam import AdaptiveMoments


class DecayBeside(AdaptiveMoments[Adamw]):
    kernel = staticmethod(torch._fused_adamw_)


OPTIMIZER = DecayBeside
