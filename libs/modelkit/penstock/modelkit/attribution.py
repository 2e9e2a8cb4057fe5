"""Words that speak most for and against a network's answer, by integrated gradients.

M. Sundararajan, A. Taly, Q. Yan, *Axiomatic Attribution for Deep Networks* (ICML 2017): the
gradient of a logit, averaged on the straight line from a text without words, whose embeddings are
all 0, to the text, times the embeddings. The shares of all words add up to what they change
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from penstock.modelkit.network import Tensors
from penstock.modelkit.texts import Part, Reading
from penstock.packages.parts import Bar, Bars

ROWS = 512  # of validation, the first ones
STEPS = 16  # on the line
LEAST = 5  # texts that a shown word is in, of these and of training: nobody's own words
SHOWN = 10  # words each way
OUTPUTS = 4  # classes that get a picture
CHUNK = 64  # rows at once


def word_pictures(network: Reading, tensors: Tensors, names: Sequence[str]) -> tuple[Bars, ...]:
    """A picture for each text and each output of the network, of the words that `LEAST` texts have.
    `names`: the outputs, in words.
    """
    rows = torch.arange(min(ROWS, len(tensors.dense)))
    found = []
    for output, name in enumerate(names[:OUTPUTS]):
        shares = [attributions(network, tensors.batch(part), output) for part in torch.split(rows, CHUNK)]
        for index, text in enumerate(network.parts()):
            numbers = [tensors.batch(part)[2 + index] for part in torch.split(rows, CHUNK)]
            bars = list(_bars(text, numbers, [part[index] for part in shares]))
            if bars:
                about = (
                    f"What a word adds to {name} in a text that has it, on average, by integrated gradients"
                    f" (Sundararajan 2017) over {len(rows)} rows of validation; words in at least {LEAST}"
                    " of them. It tells what the model goes by, not what is so."
                )
                title = f"Words of `{text.words.name}` for and against {name}"
                found.append(Bars(title=title, about=about, axis=f"Added to {name}", bars=tuple(bars)))
    return tuple(found)


def attributions(network: Reading, batch: Sequence[Tensor], output: int) -> list[Tensor]:
    """Shares of every word of the batch in the output, for each text float32 [B, longest]."""
    network.eval()
    parts = network.parts()
    totals = [torch.zeros(()) for _ in parts]
    for step in range(STEPS):
        here = _gradients(network, batch, output, (step + 0.5) / STEPS)
        totals = [total + words * slope for total, (words, slope) in zip(totals, here, strict=True)]
    return [
        total.sum(dim=2)[:, part.before : part.before + numbers.shape[1]] / STEPS
        for part, total, numbers in zip(parts, totals, batch[2:], strict=True)
    ]


def _gradients(
    network: Reading, batch: Sequence[Tensor], output: int, share: float
) -> list[tuple[Tensor, Tensor]]:
    """Embeddings of each text [B, places, dimension], and the output's gradient at this share of them."""
    found: list[Tensor] = []
    scaled: list[Tensor] = []

    def scale(_table: object, _numbers: object, embedded: Tensor) -> Tensor:
        found.append(embedded.detach())
        scaled.append((found[-1] * share).requires_grad_())
        return scaled[-1]

    handles = [part.table.register_forward_hook(scale) for part in network.parts()]
    try:
        answer = network(*batch)[:, output].sum()
    finally:
        for handle in handles:
            handle.remove()
    return list(zip(found, torch.autograd.grad(answer, scaled), strict=True))


def _bars(text: Part, numbers: Sequence[Tensor], shares: Sequence[Tensor]) -> Iterator[Bar]:
    """The words with the largest means over the texts that have them, then those with the least."""
    width = len(text.words.counts) + 1
    total, texts = np.zeros(width), np.zeros(width, dtype=np.int64)
    for part, share in zip(numbers, shares, strict=True):
        matrix = torch.zeros(len(part), width).scatter_add_(1, part, share)
        total += matrix.sum(dim=0).double().numpy()
        texts += torch.zeros(len(part), width).scatter_(1, part, 1.0).sum(dim=0).long().numpy()
    enough = np.array([False, *(rows >= LEAST for rows in text.words.rows), False]) & (texts >= LEAST)
    mean = np.where(enough, total / np.maximum(texts, 1), 0.0)
    rising = np.argsort(mean, kind="stable")
    for index in (*rising[::-1][:SHOWN], *rising[:SHOWN]):
        if mean[index]:
            yield Bar(name=text.words.words[index - 1], value=float(mean[index]))
