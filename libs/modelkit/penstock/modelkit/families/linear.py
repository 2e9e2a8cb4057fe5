"""`model: {type: linear}`: a linear or logistic regression, trained as a network without layers."""

from __future__ import annotations

from functools import partial

from penstock.contracts.pipeline import Linear
from penstock.modelkit.family import Family
from penstock.modelkit.features import Features
from penstock.modelkit.network import Layers, Shape
from penstock.modelkit.neural import LIMITS, Neural


def network(_spec: Linear, shape: Shape) -> Layers:
    return Layers(shape)


def kind(_spec: Linear) -> str:
    return "linear: a weight for each number and each value of a category, added up"


FAMILY: Family = Neural[Linear](
    Linear,
    inputs=partial(Features.tensors, pieces=False),
    network=network,
    kind=kind,
    limits=(
        "It adds up what each feature says by itself: a combination of two says no more than both.",
        *LIMITS,
    ),
)
