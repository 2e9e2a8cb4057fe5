"""`model: {type: wide_deep}`: a linear model of categories and their crosses, and a network beside it.

H.-T. Cheng et al., *Wide & Deep Learning for Recommender Systems* (2016). Both parts are learned
together, here by one optimizer instead of FTRL and AdaGrad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import WideDeep
from penstock.modelkit.family import Family
from penstock.modelkit.features import Features, Value
from penstock.modelkit.graph import Graph
from penstock.modelkit.network import Layers, Network, Shape
from penstock.modelkit.neural import Neural
from penstock.modelkit.preprocessing import Category

LARGEST = 1_000_000  # weights of a cross for one output: 4 MB of the graph


class WideAndDeep(Network):
    """Adds up the logits of both parts. `wide` has a table per category and per cross: a row's weight
    is the one-hot column's. A combination of values that training never saw adds 0.
    """

    def __init__(self, shape: Shape, crosses: Sequence[Sequence[str]], deep: Layers) -> None:
        """Raises Invalid where a cross has too many combinations."""
        super().__init__()
        self.deep = deep
        categories = [part for part in shape.strings if isinstance(part, Category)]
        at = {part.name: index for index, part in enumerate(categories)}
        self._embedded = [index for index, part in enumerate(categories) if part.dimension]
        self._shares = [torch.tensor(part.weights, dtype=torch.float32) for part in categories]
        # Of each table the buckets' columns, and what a step of each counts in the table's index.
        self._columns = [[index] for index in range(len(categories))]
        self._columns += [[at[name] for name in cross] for cross in crosses]
        sizes = [[len(categories[index].counts) for index in columns] for columns in self._columns]
        self._strides = [[prod(size[place + 1 :]) for place in range(len(size))] for size in sizes]
        self.wide = nn.ModuleList()
        for columns, size in zip(self._columns, sizes, strict=True):
            if len(columns) > 1 and prod(size) > LARGEST:
                names = " and ".join(f"`{categories[index].name}`" for index in columns)
                raise Invalid(
                    f"{names} have {prod(size):,} combinations of values; a cross takes {LARGEST:,}",
                    where=f"model.crosses[{len(self.wide) - len(categories)}]",
                    remedy="Leave it out, or give its features a min_count, so that rare values are one",
                )
            table = nn.Embedding(prod(size), shape.outputs)
            nn.init.zeros_(table.weight)
            self.wide.append(table)

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        found: Tensor = self.deep(dense, buckets[:, self._embedded])
        for table, columns, strides in zip(self.wide, self._columns, self._strides, strict=True):
            steps = buckets[:, columns] * buckets.new_tensor(strides)
            found = found + table(steps.sum(dim=1))
        return found

    def average_unseen(self) -> None:
        self.deep.average_unseen()
        with torch.no_grad():
            for table, shares in zip(self.wide.parameters(), self._shares, strict=False):  # no crosses
                known = shares.to(table.device)
                table[known == 0] = known @ table

    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        if not self.wide:
            return self.deep.compile_into(graph, inputs)
        buckets = inputs["buckets"]
        embedded = {"buckets": graph.columns(buckets, self._embedded)} if self._embedded else {}
        found = self.deep.compile_into(graph, {**inputs, **embedded})
        for table, columns, strides in zip(self.wide.parameters(), self._columns, self._strides, strict=True):
            steps = graph.op("Mul", graph.columns(buckets, columns), graph.constant([strides], np.int64))
            index = graph.op("ReduceSum", steps, graph.constant([1], np.int64), keepdims=0)
            known = graph.constant(table.detach().numpy(), np.float32)
            found = graph.op("Add", found, graph.op("Gather", known, index, axis=0))
        return found


def inputs(features: Features) -> dict[str, Value]:
    """Inputs of an `mlp`, and the buckets of all categories, not of embedded ones alone."""
    found = features.tensors(pieces=True)
    categories = features.categories()
    return {**found, "buckets": categories} if categories else found


def network(spec: WideDeep, shape: Shape) -> WideAndDeep:
    return WideAndDeep(shape, spec.crosses, Layers(shape, spec.hidden, spec.dropout))


def kind(spec: WideDeep) -> str:
    crossed = ", ".join(" × ".join(cross) for cross in spec.crosses) or "none"
    hidden = ", ".join(map(str, spec.hidden))
    return (
        f"wide and deep: a linear part over all values of categories and their crosses ({crossed}), added"
        f" to a network with hidden layers {hidden}, dropout {spec.dropout:g}"
    )


FAMILY: Family = Neural[WideDeep](WideDeep, inputs=inputs, network=network, kind=kind)
