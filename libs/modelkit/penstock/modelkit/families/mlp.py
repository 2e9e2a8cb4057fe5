"""`model: {type: mlp}`: fully connected layers."""

from __future__ import annotations

from functools import partial

from penstock.contracts.pipeline import Mlp
from penstock.modelkit.family import Family
from penstock.modelkit.features import Features
from penstock.modelkit.network import Layers, Shape
from penstock.modelkit.neural import Neural


def network(spec: Mlp, shape: Shape) -> Layers:
    return Layers(shape, spec.hidden, spec.dropout)


def kind(spec: Mlp) -> str:
    return f"mlp, hidden layers {', '.join(map(str, spec.hidden))}, dropout {spec.dropout:g}"


FAMILY: Family = Neural[Mlp](Mlp, inputs=partial(Features.tensors, pieces=True), network=network, kind=kind)
