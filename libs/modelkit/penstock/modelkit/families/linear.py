"""`model: {type: linear}`: a linear or logistic regression, trained as a network without layers."""

from __future__ import annotations

from penstock.contracts.pipeline import Linear
from penstock.modelkit.family import Family
from penstock.modelkit.network import Network
from penstock.modelkit.neural import Neural, Shape


class LinearFamily(Neural[Linear]):
    spec = Linear
    pieces = False

    def network(self, spec: Linear, shape: Shape) -> Network:
        return Network(*shape)

    def kind(self, spec: Linear) -> str:
        return "linear"


FAMILY: Family = LinearFamily()
