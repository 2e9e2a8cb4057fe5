"""`model: {type: mlp}`: fully connected layers."""

from __future__ import annotations

from penstock.contracts.pipeline import Mlp
from penstock.modelkit.family import Family
from penstock.modelkit.network import Network
from penstock.modelkit.neural import Neural, Shape


class MlpFamily(Neural[Mlp]):
    spec = Mlp
    pieces = True

    def network(self, spec: Mlp, shape: Shape) -> Network:
        return Network(*shape, spec.hidden, spec.dropout)

    def kind(self, spec: Mlp) -> str:
        return f"mlp, hidden layers {', '.join(map(str, spec.hidden))}, dropout {spec.dropout:g}"


FAMILY: Family = MlpFamily()
