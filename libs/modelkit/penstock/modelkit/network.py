"""Networks behind the preprocessing, each once as a torch module and once as ONNX nodes from its weights.

Written out by hand instead of exported by tracing: a few layers take ten nodes, the bytes are the
same each time, and the parity check of every package compares both over all its rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from penstock.modelkit.device import handed
from penstock.modelkit.dropout import Dropout
from penstock.modelkit.features import Inputs, WordNumbers, WordWeights
from penstock.modelkit.graph import Graph
from penstock.modelkit.preprocessing import Category, Text, TextSequence

# Standard deviation of embeddings before training. torch's own 1 is noise that thousands of rows
# cannot unlearn: 0.8407 → 0.8430 AUROC on 2,700 loans [M].
EMBEDDING_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Tensors:
    """Inputs in torch, whole in memory; batches are cut from them. `words`: per text starts,
    columns, weights, width of a sparse matrix. `sequences`: per text starts and word numbers.
    `place`: processor that batches go to, where it is not the one that the inputs are on.
    """

    dense: Tensor
    buckets: Tensor
    words: tuple[tuple[Tensor, Tensor, Tensor, int], ...] = ()
    sequences: tuple[tuple[Tensor, Tensor], ...] = ()
    place: torch.device | None = None

    @classmethod
    def of(cls, inputs: Inputs) -> Tensors:
        """`inputs`: as `Features.tensors` names them."""
        words = [part for part in inputs.values() if isinstance(part, WordWeights)]
        sequences = [part for part in inputs.values() if isinstance(part, WordNumbers)]
        plain = {name: part for name, part in inputs.items() if isinstance(part, np.ndarray)}
        ragged: list[WordWeights | WordNumbers] = [*words, *sequences]
        rows = len(ragged[0].starts) - 1 if ragged else len(next(iter(plain.values())))
        return cls(
            torch.from_numpy(plain.get("dense", np.empty((rows, 0), np.float32))),
            torch.from_numpy(plain.get("buckets", np.empty((rows, 0), np.int64))),
            tuple(
                (
                    torch.from_numpy(part.starts),
                    torch.from_numpy(part.columns),
                    torch.from_numpy(part.weights),
                    part.width,
                )
                for part in words
            ),
            tuple((torch.from_numpy(part.starts), torch.from_numpy(part.numbers)) for part in sequences),
        )

    @classmethod
    def joined(cls, parts: Sequence[Tensors], room: Tensor) -> Tensors:
        """Rows of all parts in their order, copied, the dense columns into that room."""
        first = parts[0]
        words, sequences = [], []
        for at, (*_, width) in enumerate(first.words):
            starts, (columns, weights) = _joined([part.words[at][:3] for part in parts])
            words.append((starts, columns, weights, width))
        for at in range(len(first.sequences)):
            starts, (numbers,) = _joined([part.sequences[at] for part in parts])
            sequences.append((starts, numbers))
        return cls(
            torch.cat([part.dense for part in parts], out=room[: sum(len(part.dense) for part in parts)]),
            torch.cat([part.buckets for part in parts]),
            tuple(words),
            tuple(sequences),
            first.place,
        )

    def contents(self) -> Iterator[Tensor]:
        """Every tensor, in order."""
        yield from (self.dense, self.buckets)
        for starts, columns, weights, _ in self.words:
            yield from (starts, columns, weights)
        yield from chain.from_iterable(self.sequences)

    def moved(self, place: torch.device) -> Tensors:
        """Copy on that processor."""
        return Tensors(
            self.dense.to(place),
            self.buckets.to(place),
            tuple(
                (starts.to(place), columns.to(place), weights.to(place), width)
                for starts, columns, weights, width in self.words
            ),
            tuple((starts.to(place), numbers.to(place)) for starts, numbers in self.sequences),
        )

    def between(self, first: int, end: int) -> Tensors:
        """Rows from `first` up to `end`; nothing is copied."""
        return Tensors(
            self.dense[first:end],
            self.buckets[first:end],
            tuple(
                (starts[first : end + 1], columns, weights, width)
                for starts, columns, weights, width in self.words
            ),
            tuple((starts[first : end + 1], numbers) for starts, numbers in self.sequences),
            self.place,
        )

    def parts(self) -> Iterator[Tensor]:
        """Tensors that `between` cut out, each an unbroken piece of memory."""
        yield from (self.dense, self.buckets)
        for starts, *entries in (*((s, c, w) for s, c, w, _ in self.words), *self.sequences):
            yield starts
            for entry in entries:
                yield entry[int(starts[0]) : int(starts[-1])]

    def batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        """dense [B, d + widths], words made dense, buckets [B, c], and of each sequence word numbers
        [B, longest], of these rows.
        """
        parts = [self.dense[rows]]
        for starts, columns, weights, width in self.words:
            counts, at = _entries(starts, rows)
            owner = torch.repeat_interleave(torch.arange(len(rows), device=counts.device), counts)
            matrix = weights.new_zeros(len(rows), width)
            matrix[owner, columns[at]] = weights[at]
            parts.append(matrix)
        dense = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        found = dense, self.buckets[rows], *(_padded(*sequence, rows) for sequence in self.sequences)
        return tuple(handed(part, self.place) for part in found)


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, list[Tensor]]:
    """Starts and entries of sparse matrices, one below the other, of each one's starts and all entries."""
    counts = torch.cat([starts.diff() for starts, *_ in parts])
    cuts = [slice(int(starts[0]), int(starts[-1])) for starts, *_ in parts]
    found = [
        torch.cat([entries[cut] for entries, cut in zip(each, cuts, strict=True)])
        for each in zip(*(entries for _, *entries in parts), strict=True)
    ]
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), found


def _entries(starts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of these rows of a sparse matrix: how many each row has, and their places among all."""
    counts = starts[rows + 1] - starts[rows]
    first = torch.repeat_interleave(starts[rows] - (counts.cumsum(0) - counts), counts)
    return counts, torch.arange(len(first), device=first.device) + first


def _padded(starts: Tensor, numbers: Tensor, rows: Tensor) -> Tensor:
    """int64 [B, longest], 0 behind each row's numbers."""
    counts, at = _entries(starts, rows)
    longest = max(1, int(counts.max())) if len(rows) else 1
    found = numbers.new_zeros(len(rows), longest)
    found[torch.arange(longest, device=counts.device) < counts[:, None]] = numbers[at]
    return found


class Shape(NamedTuple):
    """Sizes that a network is made for. `strings`: categories and texts; `dense`: columns of
    `Tensors.batch`, words included, and those of texts; `outputs`: logits, one of two classes or of
    a regression, else one a class; `numbers`: those of the dense columns, the first, that are
    scaled numbers; `pieces`: each number's pieces among the dense columns.
    """

    strings: tuple[Category | Text | TextSequence, ...]
    dense: int
    outputs: int
    numbers: int = 0
    pieces: tuple[range, ...] = ()

    @property
    def embedded(self) -> tuple[Category, ...]:
        """Categories whose buckets are embedded, in the order of `Tensors.buckets`."""
        return tuple(part for part in self.strings if isinstance(part, Category) and part.dimension)

    @property
    def texts(self) -> tuple[int, ...]:
        """Columns of each text, the last ones of `dense`: weighted words, then what layers read."""
        words = (len(part.words) for part in self.strings if isinstance(part, Text))
        read = (part.treatment.columns for part in self.strings if isinstance(part, TextSequence))
        return (*words, *read)


class Trainable(nn.Module):
    """A torch module from a batch, dense and buckets as `Tensors.batch` gives them, to what an objective
    compares with the labels, float32 [B, outputs]; in training of each of its `members`, [B members, …].
    """

    members = 1

    def average_unseen(self) -> None:
        """Gives buckets that the training split never filled the average weights of those it did.
        Called when the network is made and after each epoch.
        """

    def undecayed(self) -> Iterable[nn.Parameter]:
        """Parameters that weight decay does not draw to 0."""
        return ()

    @torch.no_grad()
    def predict(self, tensors: Tensors, chunk: int = 4096) -> Tensor:
        """Answers for all rows, without dropout."""
        self.eval()
        rows = torch.arange(len(tensors.dense))
        first, *others = torch.split(rows, chunk)
        found: Tensor = self(*tensors.batch(first))
        answers = found.new_empty(len(rows), *found.shape[1:])  # small pieces between batches cost memory
        answers[: len(found)] = found
        for part in others:
            answers[int(part[0]) : int(part[0]) + len(part)] = self(*tensors.batch(part))
        return answers


class Network(Trainable, ABC):
    """Network whose answers are logits, or standardised values."""

    @abstractmethod
    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        """Nodes for logits FP32 [N, outputs]. `inputs`: as `Features.tensors` names them."""


class Embedded(Network):
    """A network with embeddings of the categories beside the dense columns: `width` columns together."""

    def __init__(self, shape: Shape, spread: float = EMBEDDING_SPREAD) -> None:
        """`spread`: standard deviation of embeddings before training."""
        super().__init__()
        tables = [nn.Embedding(len(part.counts), part.dimension or 1) for part in shape.embedded]
        for table in tables:
            nn.init.normal_(table.weight, std=spread)
        self.embeddings = nn.ModuleList(tables)
        self._shares = [torch.tensor(part.weights, dtype=torch.float32) for part in shape.embedded]
        self.width = shape.dense + sum(part.dimension or 1 for part in shape.embedded)

    def embedded(self, dense: Tensor, buckets: Tensor) -> Tensor:
        """float32 [B, width]: the dense columns, then the embeddings."""
        found = [embedding(buckets[:, index]) for index, embedding in enumerate(self.embeddings)]
        return torch.cat([dense, *found], dim=1) if found else dense

    def average_unseen(self) -> None:
        with torch.no_grad():
            for table, shares in zip(self.embeddings.parameters(), self._shares, strict=True):
                known = shares.to(table.device)
                table[known == 0] = known @ table

    def compile_embedded(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        """Nodes for `embedded`."""
        parts = [value for name, value in inputs.items() if name != "buckets"]
        for index, table in enumerate(self.embeddings.parameters()):
            column = graph.columns(inputs["buckets"], [index])
            bucket = graph.op("Reshape", column, graph.constant([-1], np.int64))
            known = graph.constant(table.detach().numpy(), np.float32)
            parts.append(graph.op("Gather", known, bucket, axis=0))
        return graph.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


class Layers(Embedded):
    """`hidden` layers with ReLU and dropout (none: a linear model)."""

    def __init__(self, shape: Shape, hidden: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__(shape)
        width = self.width
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), Dropout(dropout)]
            width = size
        layers.append(nn.Linear(width, shape.outputs))
        self.layers = nn.Sequential(*layers)
        self.average_unseen()

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        found: Tensor = self.layers(self.embedded(dense, buckets))
        return found

    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        value = self.compile_embedded(graph, inputs)
        for layer in self.layers:  # a dropout adds no node
            if isinstance(layer, nn.Linear):
                weight = graph.constant(layer.weight.detach().numpy().T, np.float32)
                bias = graph.constant(layer.bias.detach().numpy(), np.float32)
                value = graph.op("Gemm", value, weight, bias)
            elif isinstance(layer, nn.ReLU):
                value = graph.op("Relu", value)
        return value
