"""`model: {type: mlp}`: fully connected layers."""

from __future__ import annotations

from penstock.contracts.pipeline import Mlp
from penstock.modelkit.family import Family
from penstock.modelkit.neural import Neural


def layers(spec: Mlp) -> tuple[tuple[int, ...], float]:
    return spec.hidden, spec.dropout


def kind(spec: Mlp) -> str:
    return f"mlp, hidden layers {', '.join(map(str, spec.hidden))}, dropout {spec.dropout:g}"


FAMILY: Family = Neural[Mlp](Mlp, pieces=True, layers=layers, kind=kind)
