"""`model: {type: tabm}`: networks that share their weights and are trained side by side.

Y. Gorishniy, A. Kotelnikov, A. Babenko, *TabM: Advancing Tabular Deep Learning with
Parameter-Efficient Ensembling* (ICLR 2025), after Y. Wen, D. Tran, J. Ba, *BatchEnsemble* (ICLR
2020). Each member's loss counts by itself; members' logits are averaged, not their probabilities,
so that the answer's layer is one product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from penstock.contracts.pipeline import TabM
from penstock.modelkit.dropout import Dropout
from penstock.modelkit.family import Family
from penstock.modelkit.features import Features
from penstock.modelkit.graph import Graph
from penstock.modelkit.network import Embedded, Shape
from penstock.modelkit.neural import Neural


class Members(Embedded):
    """`k` members of the same `hidden` layers, with ReLU and dropout. In training it gives each
    member's logits, [B k, outputs].
    """

    def __init__(self, shape: Shape, k: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(shape)
        self.members, self.dropout = k, Dropout(dropout)
        sizes = [self.width, *hidden]
        self.layers = nn.ModuleList(
            SharedLinear(k, width, outputs, first=place == 0)
            for place, (width, outputs) in enumerate(zip(sizes, hidden, strict=False))
        )
        reach = sizes[-1] ** -0.5
        self.weight = nn.Parameter(torch.empty(k, sizes[-1], shape.outputs).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.empty(k, shape.outputs).uniform_(-reach, reach))
        self.average_unseen()

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        value = self.embedded(dense, buckets)[:, None, :]
        for layer in self.layers:
            value = self.dropout(torch.relu(layer(value)))
        found = torch.einsum("bki,kio->bko", value, self.weight) + self.bias
        return found.flatten(0, 1) if self.training else found.mean(dim=1)

    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        value = graph.op("Unsqueeze", self.compile_embedded(graph, inputs), graph.constant([1], np.int64))
        for layer in self.layers:
            shared, scale_in, scale_out, bias = (_constant(graph, part) for part in layer.parameters())
            product = graph.op("MatMul", graph.op("Mul", value, scale_in), shared)
            value = graph.op("Relu", graph.op("Add", graph.op("Mul", product, scale_out), bias))
        width = self.weight.shape[0] * self.weight.shape[1]
        flat = graph.op("Reshape", value, graph.constant([-1, width], np.int64))
        mean = _constant(graph, self.weight.flatten(0, 1) / self.members)
        return graph.op("Gemm", flat, mean, _constant(graph, self.bias.mean(dim=0)))


class SharedLinear(nn.Module):
    """A linear layer that members share, each with scales of its inputs and outputs and a bias."""

    def __init__(self, k: int, width: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        reach = width**-0.5
        self.shared = nn.Parameter(torch.empty(width, outputs).uniform_(-reach, reach))
        signs = torch.randint(0, 2, (k, width)) * 2.0 - 1.0  # members differ by them alone at first
        self.scale_in = nn.Parameter(signs if first else torch.ones(k, width))
        self.scale_out = nn.Parameter(torch.ones(k, outputs))
        self.bias = nn.Parameter(torch.empty(k, outputs).uniform_(-reach, reach))

    def forward(self, value: Tensor) -> Tensor:
        """float32 [B, k or 1, width] → [B, k, outputs]."""
        return (value * self.scale_in) @ self.shared * self.scale_out + self.bias


def _constant(graph: Graph, values: Tensor) -> str:
    return graph.constant(values.detach().numpy(), np.float32)


def network(spec: TabM, shape: Shape) -> Members:
    return Members(shape, spec.k, spec.hidden, spec.dropout)


def kind(spec: TabM) -> str:
    hidden = ", ".join(map(str, spec.hidden))
    return f"tabm, {spec.k} members that share hidden layers {hidden}, dropout {spec.dropout:g}"


FAMILY: Family = Neural[TabM](TabM, inputs=partial(Features.tensors, pieces=True), network=network, kind=kind)
