"""`model: {type: linear}`: a linear or logistic regression, trained as a network without layers."""

from __future__ import annotations

from penstock.contracts.pipeline import Linear
from penstock.modelkit.family import Family
from penstock.modelkit.neural import Neural


def layers(_spec: Linear) -> tuple[tuple[int, ...], float]:
    return (), 0.0


def kind(_spec: Linear) -> str:
    return "linear"


FAMILY: Family = Neural[Linear](Linear, pieces=False, layers=layers, kind=kind)
