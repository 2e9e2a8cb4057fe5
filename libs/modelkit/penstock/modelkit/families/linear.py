"""`model: {type: linear}`: a linear or logistic regression, trained as a network without layers."""

from __future__ import annotations

from functools import partial

from penstock.contracts.pipeline import Linear
from penstock.modelkit.family import Family
from penstock.modelkit.features import Features
from penstock.modelkit.network import Layers, Shape
from penstock.modelkit.neural import Neural


def network(_spec: Linear, shape: Shape) -> Layers:
    return Layers(shape)


def kind(_spec: Linear) -> str:
    return "linear"


FAMILY: Family = Neural[Linear](
    Linear, inputs=partial(Features.tensors, pieces=False), network=network, kind=kind
)
