"""`model: {type: ft_transformer}`: a transformer over a row's features, a token each.

Y. Gorishniy, I. Rubachev, V. Khrulkov, A. Babenko, *Revisiting Deep Learning Models for Tabular
Data* (NeurIPS 2021): normalisation in front of each sublayer but the first attention, ReGLU, the
answer from a token of its own. A category's bias is part of its embeddings here. Numbers in pieces:
Y. Gorishniy, I. Rubachev, A. Babenko, *On Embeddings for Numerical Features in Tabular Deep
Learning* (NeurIPS 2022).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import FtTransformer, Pipeline
from penstock.modelkit.dropout import Dropout
from penstock.modelkit.family import Epoch, Family, Prepared
from penstock.modelkit.features import Features
from penstock.modelkit.graph import DOUBLE, FLOAT, Graph
from penstock.modelkit.network import Network, Shape, Tensors
from penstock.modelkit.neural import Neural, TrainedNetwork
from penstock.modelkit.preprocessing import Category
from penstock.modelkit.training import Loop, train
from penstock.modelkit.transformer import Attention, FeedForward, Linear, Norm, constant

SPEED = 1e10  # operations a second that one core does at least
LONGEST = 24 * 3600  # seconds
LARGEST = 4e9  # bytes of attention in one step of training


class Tokens(nn.Module):
    """A token [B, d] for the answer, for each plain column, category and text."""

    _first: Tensor  # row of each category's first bucket in the table

    def __init__(self, shape: Shape, d: int) -> None:
        super().__init__()
        categories = [part for part in shape.strings if isinstance(part, Category)]
        texts, counts = shape.texts, [len(columns) for columns in shape.pieces]
        self._plain = shape.dense - sum(counts) - sum(texts)
        self._pieces = counts if any(counts) else []
        self._widths = [self._plain, *self._pieces, *texts]
        self._sizes = [len(part.counts) for part in categories]
        self._shares = [torch.tensor(part.weights, dtype=torch.float32) for part in categories]
        self.count = 1 + self._plain + len(categories) + len(texts)

        def parameter(rows: int) -> nn.Parameter:
            bound = 1 / math.sqrt(d)
            return nn.Parameter(torch.empty(rows, d).uniform_(-bound, bound))

        self.answer = parameter(1)
        self.weight, self.bias = parameter(self._plain), parameter(self._plain)
        self.table = parameter(sum(self._sizes))
        self.register_buffer("_first", torch.tensor(self._offsets, dtype=torch.int64), persistent=False)
        self.texts = nn.ModuleList(Linear(width, d) for width in texts)
        # From 0, so that a number begins as a line and bends where that lowers the loss.
        self.pieces = nn.ParameterList(torch.zeros(count, d) for count in self._pieces)

    @property
    def _offsets(self) -> list[int]:
        return [sum(self._sizes[:index]) for index in range(len(self._sizes))]

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        plain, *others = torch.split(dense, self._widths, dim=1)
        pieces, texts = others[: len(self._pieces)], others[len(self._pieces) :]
        columns = plain[:, :, None] * self.weight + self.bias
        if pieces:
            bends = [part @ weight for part, weight in zip(pieces, self.pieces, strict=True)]
            numbers = columns[:, : len(bends)] + torch.stack(bends, dim=1)
            columns = torch.cat([numbers, columns[:, len(bends) :]], dim=1)
        parts = [
            self.answer.expand(len(dense), 1, -1),
            columns,
            # Not by an index, whose gradient several threads add up in no order.
            functional.embedding(buckets + self._first, self.table),
            *(layer(text)[:, None] for layer, text in zip(self.texts, texts, strict=True)),
        ]
        return torch.cat(parts, dim=1)

    def average_unseen(self) -> None:
        with torch.no_grad():
            for table, shares in zip(torch.split(self.table, self._sizes), self._shares, strict=True):
                known = shares.to(table.device)
                table[known == 0] = known @ table

    def compile(self, graph: Graph, inputs: Mapping[str, str]) -> str:  # type: ignore[override]
        one, second = graph.constant([1], np.int64), graph.constant([2], np.int64)
        rows = graph.op("Shape", next(iter(inputs.values())), start=0, end=1)
        size = graph.op("Concat", rows, graph.constant([1, self.answer.shape[1]], np.int64), axis=0)
        parts = [graph.op("Expand", constant(graph, self.answer), size)]
        if self._plain:
            dense = inputs["dense"]
            plain = graph.columns(dense, list(range(self._plain))) if self._pieces else dense
            plain = graph.op("Cast", graph.op("Unsqueeze", plain, second), to=DOUBLE)
            scaled = graph.op("Mul", plain, constant(graph, self.weight))
            parts += self._bent(graph, graph.op("Add", scaled, constant(graph, self.bias)), dense)
        if self._sizes:
            places = graph.op("Add", inputs["buckets"], graph.constant([self._offsets], np.int64))
            parts.append(graph.op("Gather", constant(graph, self.table), places, axis=0))
        texts = (value for name, value in inputs.items() if name not in ("dense", "buckets"))
        for layer, text in zip(self.texts, texts, strict=True):
            assert isinstance(layer, Linear)
            made = layer.compile(graph, graph.op("Cast", text, to=DOUBLE))
            parts.append(graph.op("Unsqueeze", made, one))
        return graph.op("Concat", *parts, axis=1)

    def _bent(self, graph: Graph, columns: str, dense: str) -> list[str]:
        """Nodes for the tokens of plain columns, those of numbers with what their pieces add."""
        if not self._pieces:
            return [columns]
        found, one, first = [], graph.constant([1], np.int64), self._plain
        for index, weight in enumerate(self.pieces):
            token = graph.columns(columns, [index])
            if count := len(weight):
                part = graph.op("Cast", graph.columns(dense, list(range(first, first + count))), to=DOUBLE)
                bend = graph.op("MatMul", part, constant(graph, weight))
                token = graph.op("Add", token, graph.op("Unsqueeze", bend, one))
                first += count
            found.append(token)
        absences = list(range(len(found), self._plain))
        return [*found, graph.columns(columns, absences)] if absences else found


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to its input. Of the last block only the
    answer's token asks; the first has no normalisation before its attention.
    """

    def __init__(self, spec: FtTransformer, *, first: bool, last: bool) -> None:
        super().__init__()
        self._last = last
        self.attention_norm = None if first else Norm(spec.d)
        self.attention = Attention(spec.d, spec.heads, spec.attention_dropout)
        self.norm = Norm(spec.d)
        self.feed_forward = FeedForward(spec.d, spec.d * 4 // 3, spec.ffn_dropout)
        self.dropout = Dropout(spec.residual_dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens if self.attention_norm is None else self.attention_norm(tokens)
        if self._last:
            tokens = tokens[:, :1] + self.dropout(self.attention(seen[:, :1], seen))
        else:
            tokens = tokens + self.dropout(self.attention(seen, seen))
        found: Tensor = tokens + self.dropout(self.feed_forward(self.norm(tokens)))
        return found

    def compile(self, graph: Graph, tokens: str, count: int) -> str:  # type: ignore[override]
        def first(value: str) -> str:
            return graph.op("Gather", value, graph.constant([0], np.int64), axis=1) if self._last else value

        seen = tokens if self.attention_norm is None else self.attention_norm.compile(graph, tokens)
        asking = 1 if self._last else count
        looked = self.attention.compile(graph, first(seen), seen, asking, count)
        tokens = graph.op("Add", first(tokens), looked)
        return graph.op("Add", tokens, self.feed_forward.compile(graph, self.norm.compile(graph, tokens)))


class Transformer(Network):
    """Answers in FP64, as its nodes do: in FP32 logits are off by 2e-6 [M], and a regression's answer
    may be off by 1e-6.
    """

    def __init__(self, shape: Shape, spec: FtTransformer) -> None:
        super().__init__()
        self.tokens = Tokens(shape, spec.d)
        places = range(spec.blocks)
        self.blocks = nn.ModuleList(
            Block(spec, first=place == 0, last=place == spec.blocks - 1) for place in places
        )
        self.norm, self.head = Norm(spec.d), Linear(spec.d, shape.outputs)
        self.average_unseen()

    def forward(self, dense: Tensor, buckets: Tensor) -> Tensor:
        tokens = self.tokens(dense, buckets)
        for block in self.blocks:
            tokens = block(tokens)
        found: Tensor = self.head(torch.relu(self.norm(tokens[:, 0])))
        return found

    def average_unseen(self) -> None:
        self.tokens.average_unseen()

    def undecayed(self) -> Iterator[nn.Parameter]:
        """Tokens, biases, and the scales of norms."""
        yield from self.tokens.parameters()
        for name, parameter in self.named_parameters():
            if not name.startswith("tokens.") and parameter.ndim == 1:
                yield parameter

    @torch.no_grad()
    def predict(self, tensors: Tensors, chunk: int = 256) -> Tensor:
        exact = copy.deepcopy(self).double().eval()
        parts = torch.split(torch.arange(len(tensors.dense)), chunk)
        batches = (tensors.batch(rows) for rows in parts)
        return torch.cat([exact(dense.double(), buckets) for dense, buckets in batches])

    def compile_into(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        tokens = self.tokens.compile(graph, inputs)
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens = block.compile(graph, tokens, self.tokens.count)
        answer = graph.op("Squeeze", tokens, graph.constant([1], np.int64))
        found = self.head.compile(graph, graph.op("Relu", self.norm.compile(graph, answer)))
        return graph.op("Cast", found, to=FLOAT)


class FtTransformerFamily(Neural[FtTransformer]):
    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        loop: Loop = train,
    ) -> TrainedNetwork:
        """Raises Invalid where it would take days, or more memory than a machine has."""
        spec, plan = pipeline.model, pipeline.trainer
        assert isinstance(spec, FtTransformer)
        count = _tokens(prepared)
        of_token = 4 * spec.d**2 + 4 * spec.d**2 + 2 * count * spec.d  # attention, feed-forward, pairs
        work = 6 * count * of_token * spec.blocks * len(prepared.train.rows) * plan.epochs
        if work / SPEED > LONGEST:
            raise Invalid(
                f"{plan.epochs} epochs of {len(prepared.train.rows):,} rows of {count} tokens may take"
                f" {work / SPEED / 3600:.0f} hours",
                where="trainer.epochs",
                remedy="Lower it, model.d or model.blocks, or take another family",
            )
        held = 16 * plan.batch_size * spec.heads * count**2 * spec.blocks
        if held > LARGEST:
            raise Invalid(
                f"attention among {count} tokens of {plan.batch_size} rows takes {held / 1e9:.0f} GB",
                where="trainer.batch_size",
                remedy="Lower it, model.heads or model.blocks, or name fewer features",
            )
        return super().fit(pipeline, prepared, checkpoint=checkpoint, on_epoch=on_epoch, loop=loop)


def _tokens(prepared: Prepared) -> int:
    fitted = prepared.preprocessing
    absences = sum(part.indicator for part in fitted.numbers)
    return 1 + len(fitted.numbers) + absences + len(fitted.strings)


def kind(spec: FtTransformer) -> str:
    return (
        f"FT-Transformer, a token of {spec.d} numbers for each feature, {spec.blocks} blocks of attention"
        f" with {spec.heads} heads, dropout {spec.attention_dropout:g} of attention,"
        f" {spec.ffn_dropout:g} of hidden layers, {spec.residual_dropout:g} of blocks"
    )


FAMILY: Family = FtTransformerFamily(
    FtTransformer,
    inputs=partial(Features.tensors, pieces=True, one_hot=False),
    network=lambda spec, shape: Transformer(shape, spec),
    kind=kind,
)
