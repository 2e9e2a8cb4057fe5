"""`tuner: {type: tpe}`: the tree-structured Parzen estimator, by Optuna.

J. Bergstra, R. Bardenet, Y. Bengio and B. Kégl, *Algorithms for Hyper-Parameter Optimization* (2011).
Parameters that appear together are modelled together; running trials count as bad ones, so that
trials at the same time do not try the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import JsonValue

from penstock.contracts.pipeline import Tpe
from penstock.contracts.pipeline.tuner import formulas
from penstock.contracts.space import Space
from penstock_tuner.search.tried import Tried


def ask(
    tuner: Tpe, space: Space, tried: Sequence[Tried], chance: np.random.Generator
) -> dict[str, JsonValue]:
    from penstock_tuner.search import studies

    return studies.suggested(space, tried, len(formulas(tuner)), seed=int(chance.integers(2**31)))
