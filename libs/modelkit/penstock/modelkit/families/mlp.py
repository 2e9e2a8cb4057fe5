"""`model: {type: mlp}`: fully connected layers."""

from __future__ import annotations

from functools import partial

from penstock.contracts.pipeline import Mlp
from penstock.modelkit.family import Family
from penstock.modelkit.features import Features
from penstock.modelkit.network import Layers, Network, Shape
from penstock.modelkit.neural import Neural
from penstock.modelkit.realmlp import RealMlp


def network(spec: Mlp, shape: Shape) -> Network:
    made = RealMlp if spec.recipe == "realmlp" else Layers
    return made(shape, spec.hidden, spec.dropout)


def kind(spec: Mlp) -> str:
    recipe = " by the recipe of RealMLP" if spec.recipe == "realmlp" else ""
    return f"mlp{recipe}, hidden layers {', '.join(map(str, spec.hidden))}, dropout {spec.dropout:g}"


FAMILY: Family = Neural[Mlp](Mlp, inputs=partial(Features.tensors, pieces=True), network=network, kind=kind)
