"""Layers of a transformer, each once in torch and once as nodes.

A. Vaswani et al., *Attention Is All You Need* (NeurIPS 2017); ReGLU: N. Shazeer, *GLU Variants
Improve Transformer* (2020).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from penstock.modelkit.dropout import Dropout
from penstock.modelkit.graph import DOUBLE, Graph


def constant(graph: Graph, weights: Tensor) -> str:
    """Weights as FP64 in the graph, kept there in FP32."""
    return graph.op("Cast", graph.constant(weights.detach().float().numpy(), np.float32), to=DOUBLE)


class Linear(nn.Linear):
    def compile(self, graph: Graph, value: str) -> str:  # type: ignore[override]
        product = graph.op("MatMul", value, constant(graph, self.weight.T))
        return graph.op("Add", product, constant(graph, self.bias))


class Norm(nn.LayerNorm):
    def compile(self, graph: Graph, value: str) -> str:  # type: ignore[override]
        last = graph.constant([-1], np.int64)
        centred = graph.op("Sub", value, graph.op("ReduceMean", value, last))
        variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), last)
        spread = graph.op("Sqrt", graph.op("Add", variance, graph.constant(self.eps, np.float64)))
        scaled = graph.op("Mul", graph.op("Div", centred, spread), constant(graph, self.weight))
        return graph.op("Add", scaled, constant(graph, self.bias))


class Attention(nn.Module):
    """Attention of several heads: queries [B, q, d] look at tokens [B, t, d]."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (Linear(d, d) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight, gain=1 / math.sqrt(2))
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.bias)
        self.dropout = Dropout(dropout)
        self._heads, self._width = heads, d // heads

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        asked, known, told = (
            layer(each).unflatten(2, (self._heads, self._width)).transpose(1, 2)
            for layer, each in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        shares = torch.softmax(asked @ known.transpose(2, 3) / math.sqrt(self._width), dim=-1)
        found: Tensor = self.out((self.dropout(shares) @ told).transpose(1, 2).flatten(2))
        return found

    def compile(  # type: ignore[override]
        self, graph: Graph, queries: str, tokens: str, asking: int, count: int
    ) -> str:
        """`asking`, `count`: queries and tokens a row."""

        def split(layer: Linear, value: str, rows: int, order: list[int]) -> str:
            shape = graph.constant([0, rows, self._heads, self._width], np.int64)  # 0: as many as there are
            return graph.op("Transpose", graph.op("Reshape", layer.compile(graph, value), shape), perm=order)

        asked = split(self.query, queries, asking, [0, 2, 1, 3])
        known = split(self.key, tokens, count, [0, 2, 3, 1])
        told = split(self.value, tokens, count, [0, 2, 1, 3])
        width = graph.constant(math.sqrt(self._width), np.float64)
        shares = graph.op("Softmax", graph.op("Div", graph.op("MatMul", asked, known), width), axis=-1)
        heads = graph.op("Transpose", graph.op("MatMul", shares, told), perm=[0, 2, 1, 3])
        flat = graph.constant([0, asking, self._heads * self._width], np.int64)
        return self.out.compile(graph, graph.op("Reshape", heads, flat))


class FeedForward(nn.Module):
    """Two layers with ReGLU between them: half of the first one's outputs, times the others' ReLU."""

    def __init__(self, d: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = Linear(d, 2 * hidden), Linear(hidden, d)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        values, gates = self.first(tokens).chunk(2, dim=-1)
        found: Tensor = self.second(self.dropout(values * torch.relu(gates)))
        return found

    def compile(self, graph: Graph, tokens: str) -> str:  # type: ignore[override]
        hidden = self.second.in_features
        first = self.first.compile(graph, tokens)
        values, gates = (
            graph.op("Gather", first, graph.constant(np.arange(start, start + hidden), np.int64), axis=2)
            for start in (0, hidden)
        )
        return self.second.compile(graph, graph.op("Mul", values, graph.op("Relu", gates)))
