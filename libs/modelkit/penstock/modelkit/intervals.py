"""Intervals around a number, by quantile regression: answers are [N, 3], the value and two quantiles.

R. Koenker, G. Bassett, *Regression Quantiles* (1978). That the quantiles never cross: each row's are
put in order, which brings them no further from the true ones (V. Chernozhukov, I. Fernández-Val,
A. Galichon, *Quantile and Probability Curves Without Crossing*, 2010).
"""

from __future__ import annotations

from penstock.modelkit.graph import Graph

Quantiles = tuple[float, float]


def ordered(graph: Graph, answers: str) -> str:
    """Nodes for the same answers, the lower quantile in the second column."""
    value, one, other = (graph.columns(answers, [index]) for index in range(3))
    return graph.op("Concat", value, graph.op("Min", one, other), graph.op("Max", one, other), axis=1)
