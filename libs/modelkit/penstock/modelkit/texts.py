"""Texts in networks: words in their order become columns beside the dense ones, by layers that are
learned with the network that takes them.

A row's columns are its own: words beyond the end of a text count as 0, and with `pool: max` each
filter sees at least one place that has none of the text, however long the others in a batch are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.contracts.pipeline import TextAverage, TextCnn
from penstock.modelkit.dropout import Dropout
from penstock.modelkit.graph import FLOAT, Array, Graph
from penstock.modelkit.network import EMBEDDING_SPREAD, Network, Tensors
from penstock.modelkit.preprocessing import Category, Text, TextSequence


class Part(nn.Module, ABC):
    """A text: word numbers int64 [B, longest] → float32 [B, width], by way of `table` and places
    without words `before` them and after.
    """

    before = 0
    _after = 0

    def __init__(self, words: TextSequence) -> None:
        super().__init__()
        self.width = words.treatment.columns
        self.words = words
        self.table = nn.Embedding(len(words.counts) + 1, words.treatment.dimension, padding_idx=0)
        nn.init.normal_(self.table.weight[1:], std=EMBEDDING_SPREAD)
        self._shares = torch.tensor(words.counts, dtype=torch.float32) / sum(words.counts)

    def average_unseen(self) -> None:
        """Gives the unknown word, where the training split had none, the average of those it had."""
        known = self.table.weight[1:]
        shares = self._shares.to(known.device)
        known[shares == 0] = shares @ known

    @abstractmethod
    def compile_into(self, graph: Graph, numbers: str) -> str:
        """Nodes for the columns. `numbers`: int64 [N, longest]."""

    def _embedded(self, graph: Graph, numbers: str) -> str:
        return graph.op("Gather", graph.constant(_values(self.table.weight), np.float32), numbers, axis=0)


class Average(Part):
    """Mean of the words' embeddings; 0 of a text without words."""

    def forward(self, numbers: Tensor) -> Tensor:
        count = (numbers > 0).sum(dim=1, keepdim=True).clamp(min=1)
        found: Tensor = self.table(numbers).sum(dim=1) / count
        return found

    def compile_into(self, graph: Graph, numbers: str) -> str:
        axis = graph.constant([1], np.int64)
        total = graph.op("ReduceSum", self._embedded(graph, numbers), axis, keepdims=0)
        present = graph.op("Cast", graph.op("Greater", numbers, graph.constant(0, np.int64)), to=FLOAT)
        count = graph.op("ReduceSum", present, axis, keepdims=1)
        return graph.op("Div", total, graph.op("Max", count, graph.constant(1.0, np.float32)))


class Convolutions(Part):
    """Filters of several widths along the text, with ReLU; then each one's largest answer, or all."""

    def __init__(self, words: TextSequence) -> None:
        super().__init__(words)
        spec = words.treatment
        assert isinstance(spec, TextCnn)
        self._spec = spec
        if spec.pool == "max":
            self.before, self._after = max(spec.widths) - 1, max(spec.widths)
        self.filters = nn.ModuleList(nn.Conv1d(spec.dimension, spec.filters, width) for width in spec.widths)
        self.dropout = Dropout(spec.dropout)

    def forward(self, numbers: Tensor) -> Tensor:
        longer = functional.pad(numbers, (self.before, self._after))
        if self._spec.pool == "flatten":
            longer = functional.pad(longer, (0, self._spec.words - longer.shape[1]))
        embedded = self.table(longer).transpose(1, 2)
        answers = [functional.relu(convolution(embedded)) for convolution in self.filters]
        pooled = [answer.amax(dim=2) if self._spec.pool == "max" else answer.flatten(1) for answer in answers]
        found: Tensor = self.dropout(torch.cat(pooled, dim=1))
        return found

    def compile_into(self, graph: Graph, numbers: str) -> str:
        margins = graph.constant([0, self.before, 0, self._after], np.int64)
        if self._spec.pool == "flatten":
            margins = self._up_to(graph, numbers)
        embedded = graph.op(
            "Transpose", self._embedded(graph, graph.op("Pad", numbers, margins)), perm=[0, 2, 1]
        )
        answers = []
        for convolution in self.filters:
            assert isinstance(convolution, nn.Conv1d)
            answer = graph.op(
                "Relu",
                graph.op(
                    "Conv",
                    embedded,
                    graph.constant(_values(convolution.weight), np.float32),
                    graph.constant(_values(convolution.bias), np.float32),
                ),
            )
            if self._spec.pool == "max":
                answers.append(graph.op("ReduceMax", answer, graph.constant([2], np.int64), keepdims=0))
            else:
                answers.append(graph.op("Flatten", answer, axis=1))
        return graph.op("Concat", *answers, axis=1) if len(answers) > 1 else answers[0]

    def _up_to(self, graph: Graph, numbers: str) -> str:
        """Margins that make every text `words` long."""
        longest = graph.op("Gather", graph.op("Shape", numbers), graph.constant([1], np.int64))
        missing = graph.op("Sub", graph.constant([self._spec.words], np.int64), longest)
        return graph.op("Concat", graph.constant([0, 0, 0], np.int64), missing, axis=0)


class Reading(Network):
    """A network that takes the columns of texts as dense ones, behind those that it has."""

    def __init__(self, texts: Sequence[Part], network: Network) -> None:
        super().__init__()
        self.texts = nn.ModuleList(texts)
        self.network, self.members = network, network.members
        self.average_unseen()

    def forward(self, dense: Tensor, buckets: Tensor, *numbers: Tensor) -> Tensor:
        read = self._read([dense, buckets, *numbers])
        found: Tensor = self.network(read.dense, read.buckets)
        return found

    def average_unseen(self) -> None:
        with torch.no_grad():
            for text in self.parts():
                text.average_unseen()
        self.network.average_unseen()

    def undecayed(self) -> Iterable[nn.Parameter]:
        return self.network.undecayed()

    @torch.no_grad()
    def predict(self, tensors: Tensors, chunk: int = 256) -> Tensor:
        self.eval()
        rows = torch.split(torch.arange(len(tensors.dense)), chunk)
        return torch.cat([self.network.predict(self._read(tensors.batch(part))) for part in rows])

    def _read(self, batch: Sequence[Tensor]) -> Tensors:
        dense, buckets, *numbers = batch
        columns = [text(part) for text, part in zip(self.texts, numbers, strict=True)]
        return Tensors(torch.cat([dense, *columns], dim=1), buckets)

    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        numbers = {name: value for name, value in inputs.items() if name.startswith("sequence")}
        columns = {
            name: text.compile_into(graph, value)
            for text, (name, value) in zip(self.parts(), numbers.items(), strict=True)
        }
        others = {name: value for name, value in inputs.items() if name not in numbers}
        return self.network.compile_into(graph, others | columns)

    def limits(self) -> tuple[str, ...]:
        """Sentences for the model card on what is not read."""
        return tuple(
            f"Of `{text.words.name}` it reads the first {text.words.reading.words} words and knows"
            f" {len(text.words.words):,}; all others are one unknown word."
            for text in self.parts()
        )

    def parts(self) -> list[Part]:
        """The layers of each text."""
        return [part for part in self.texts if isinstance(part, Part)]


def text_parts(strings: Sequence[Category | Text | TextSequence]) -> tuple[Part, ...]:
    """Layers for each text among the strings that is read in its order."""
    kinds = {TextAverage: Average, TextCnn: Convolutions}
    return tuple(kinds[type(each.treatment)](each) for each in strings if isinstance(each, TextSequence))


def _values(weight: Tensor | None) -> Array:
    assert weight is not None
    values: Array = weight.detach().numpy()
    return values
