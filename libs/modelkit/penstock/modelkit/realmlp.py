"""RealMLP's network: numbers as waves, layers whose weights have one size; numbers in pieces beside
them, for those of which most rows have one value: their quartiles say nothing of the others.

D. Holzmüller, L. Grinsztajn, I. Steinwart, *Better by Default: Strong Pre-Tuned MLPs and Boosted
Trees on Tabular Data* (NeurIPS 2024). Its learning rates of kinds of weights are factors here: under
Adam a weight that counts f times learns f times as fast. Left out, as they did not lower the loss on
tables of ours: label smoothing, cycles of the learning rate, schedules of dropout and decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from penstock.modelkit.dropout import Dropout
from penstock.modelkit.graph import Graph
from penstock.modelkit.network import Embedded, Shape

REACH = 3.0  # numbers are bent to stay within
WAVES, COLUMNS = 16, 3  # of each number
SLOW, FAST = 0.1, 6.0
PIECE = 0.3  # size of a number's pieces, other columns being 1
SPREAD = 0.1  # standard deviation of a wave's frequency before training
# G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, *Self-Normalizing Neural Networks* (NeurIPS 2017)
SELU, SELU_BELOW = 1.0507009873554805, 1.0507009873554805 * 1.6732632423543772


class RealMlp(Embedded):
    """Bent numbers and their waves, other columns and embeddings, each column scaled; then `hidden`
    layers with SELU and dropout.
    """

    _fast: Tensor

    def __init__(self, shape: Shape, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(shape, spread=1.0)
        self._numbers, self.dropout = shape.numbers, Dropout(dropout)
        self.waves = Waves(shape.numbers)
        width = self.width + COLUMNS * shape.numbers
        self.scale = nn.Parameter(torch.full((width,), 1 / FAST))
        self.register_buffer("_fast", torch.full((width,), FAST), persistent=False)
        for columns in shape.pieces:
            self._fast[[COLUMNS * shape.numbers + column for column in columns]] *= PIECE
        sizes = [width, *hidden]
        self.layers = nn.ModuleList(
            EvenLinear(*pair) for pair in zip(sizes, [*hidden, shape.outputs], strict=True)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]
        self.average_unseen()

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        columns = self.embedded(dense, buckets)
        numbers = columns[:, : self._numbers]
        bent = numbers / torch.sqrt((numbers / REACH).square() + 1)
        parts = [bent, self.waves(bent), columns[:, self._numbers :]]
        value = torch.cat(parts, dim=1) * (self.scale * self._fast)
        *hidden, last = self.layers
        for layer in hidden:
            value = self.dropout(selu(layer(value)))
        found: Tensor = last(value)
        return found

    def undecayed(self) -> Iterable[nn.Parameter]:
        return (layer.bias for layer in self.layers)  # type: ignore[misc]

    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        value = self.compile_embedded(graph, inputs)
        if self._numbers:
            numbers = graph.columns(value, list(range(self._numbers)))
            reached = graph.op("Div", numbers, graph.constant(REACH, np.float32))
            squares = graph.op("Mul", reached, reached)
            length = graph.op("Sqrt", graph.op("Add", squares, graph.constant(1, np.float32)))
            bent = graph.op("Div", numbers, length)
            parts = [bent, self.waves.compile_into(graph, bent)]
            if self.width > self._numbers:
                parts.append(graph.columns(value, list(range(self._numbers, self.width))))
            value = graph.op("Concat", *parts, axis=1)
        value = graph.op("Mul", value, _constant(graph, self.scale * self._fast))
        for place, layer in enumerate(self.layers):
            weight, bias = layer.folded()  # type: ignore[operator]
            value = graph.op("Gemm", value, _constant(graph, weight), _constant(graph, bias))
            if place < len(self.layers) - 1:
                value = graph.op("Selu", value)
        return value


def selu(value: Tensor) -> Tensor:
    """torch's computes one number after the other; this is as ONNX Runtime has it, and half the time."""
    above = torch.relu(value)
    return torch.add(above * SELU, (value - above).exp() - 1, alpha=SELU_BELOW)


class EvenLinear(nn.Module):
    """A linear layer whose weights are standard normal before training, so that one learning rate suits
    all widths (A. Jacot, F. Gabriel, C. Hongler, *Neural Tangent Kernel*, NeurIPS 2018).
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, outputs))
        self.bias = nn.Parameter(torch.randn(outputs) / SLOW)

    def folded(self) -> tuple[Tensor, Tensor]:
        return self.weight * len(self.weight) ** -0.5, self.bias * SLOW

    def forward(self, value: Tensor) -> Tensor:
        return torch.addmm(self.bias, value, self.weight, beta=SLOW, alpha=len(self.weight) ** -0.5)


class Waves(nn.Module):
    """Numbers, each as `COLUMNS` sums of `WAVES` cosines of learned frequencies and phases."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.randn(numbers, 1, WAVES) * (SPREAD / SLOW))
        self.phase = nn.Parameter((2 * torch.rand(numbers, 1, WAVES) - 1) * (math.pi / SLOW))
        reach = WAVES**-0.5 / SLOW
        self.weight = nn.Parameter((2 * torch.rand(numbers, WAVES, COLUMNS) - 1) * reach)
        self.bias = nn.Parameter((2 * torch.rand(numbers, 1, COLUMNS) - 1) * reach)

    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        turns = self.frequency * (2 * math.pi * SLOW)
        return turns, self.phase * SLOW, self.weight * SLOW, self.bias * SLOW

    def forward(self, numbers: Tensor) -> Tensor:
        """float32 [B, n] → [B, COLUMNS n]."""
        rows = numbers.T[:, :, None]
        waves = torch.cos(torch.addcmul(self.phase * SLOW, rows, self.frequency, value=2 * math.pi * SLOW))
        sums = torch.baddbmm(self.bias, waves, self.weight, beta=SLOW, alpha=SLOW)
        return sums.transpose(0, 1).flatten(1)

    def compile_into(self, graph: Graph, numbers: str) -> str:
        turns, phase, weight, bias = (_constant(graph, part) for part in self.folded())
        rows = graph.op(
            "Unsqueeze", graph.op("Transpose", numbers, perm=[1, 0]), graph.constant([2], np.int64)
        )
        waves = graph.op("Cos", graph.op("Add", graph.op("Mul", rows, turns), phase))
        sums = graph.op("Add", graph.op("MatMul", waves, weight), bias)
        width = COLUMNS * len(self.frequency)
        return graph.op(
            "Reshape", graph.op("Transpose", sums, perm=[1, 0, 2]), graph.constant([-1, width], np.int64)
        )


def _constant(graph: Graph, values: Tensor) -> str:
    return graph.constant(values.detach().numpy(), np.float32)
