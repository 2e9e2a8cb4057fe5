"""Texts, and the training loop: `python benchmarks/texts.py`.

Accuracy on text-reviews' audit part by its own pipeline file, against logistic regression over
TF-IDF of the same two texts, defaults, on the same splits (those of quality.py). Rows a second of
training, processor time, against a loop written by hand in plain torch (`nn`, `torch.optim`, the
same layers, batches and steps, data in memory, a look at the validation split after each epoch),
one thread each, taken in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import quality
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from penstock.contracts.pipeline import Pipeline, TextCnn
from penstock.modelkit.build import prepare
from penstock.modelkit.family import Epoch, Prepared, family_of
from penstock.modelkit.features import WordNumbers
from penstock.modelkit.model import run

EPOCHS = 2
TURNS = 2


def text_reviews() -> quality.Data:
    events = pd.DataFrame(quality.module("text-reviews").reviews())
    return quality._data("text-reviews", events, events["recommended"], 5, ())


def accuracy(data: quality.Data, seeds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"ours": [], "theirs": [], "s": [], "parity": []}
    for seed, parts in quality.splits(len(data.features), seeds):
        truth = data.positive[parts["audit"]]
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            built, rows = quality.trained(data, parts, seed, Path(folder))
            found["s"].append(time.process_time() - began)
            said = run(built.model, rows)["probabilities"][:, 1] > 0.5
        found["parity"].append(built.parity)
        found["ours"].append(float((said == truth).mean()))
        found["theirs"].append(float((tf_idf(data, parts) == truth).mean()))
        print(
            f"  seed {seed}  " + "  ".join(f"{name} {values[-1]:.4g}" for name, values in found.items()),
            file=sys.stderr,
        )
    return {"seeds": seeds, **quality.paired(found, "accuracy")}


def tf_idf(data: quality.Data, parts: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Answers of logistic regression on the audit part."""
    texts = data.features.fillna("")
    learned, judged = [], []
    for name in ("title", "text"):
        words = TfidfVectorizer()
        learned.append(words.fit_transform(texts[name].iloc[parts["train"]]))
        judged.append(words.transform(texts[name].iloc[parts["audit"]]))
    model = LogisticRegression(max_iter=2000).fit(sparse.hstack(learned), data.positive[parts["train"]])
    return model.predict(sparse.hstack(judged))


# -- the loop --------------------------------------------------------------------------------------


def speed(data: quality.Data, byhand: Callable[[Pipeline, Prepared], Callable[[], None]]) -> dict[str, float]:
    """Rows a second of both, each the best of its turns."""
    _, parts = next(iter(quality.splits(len(data.features), 1)))
    trainer = data.declared.trainer.model_copy(update={"epochs": EPOCHS + 1, "early_stopping": None})
    pipeline = data.pipeline(0).model_copy(update={"trainer": trainer})
    with tempfile.TemporaryDirectory() as folder:
        quality.write(data, parts, Path(folder))
        prepared = prepare(pipeline, *(Path(folder) / f"{part}.parquet" for part in ("train", "validation")))
    rows, family = len(prepared.train.rows), family_of(pipeline.model)
    taken: dict[str, list[float]] = {"ours": [], "by hand": []}
    for _ in range(TURNS):
        moments: list[float] = []
        family.fit(pipeline, prepared, on_epoch=partial(_tick, moments))
        taken["ours"].append((moments[-1] - moments[0]) / EPOCHS)
        torch.manual_seed(0)
        epoch = byhand(pipeline, prepared)
        epoch()
        began = time.process_time()
        for _ in range(EPOCHS):
            epoch()
        taken["by hand"].append((time.process_time() - began) / EPOCHS)
    ours, hand = (rows / min(taken[name]) for name in taken)
    return {"ours": ours, "by_hand": hand, "ratio": ours / hand}


def _tick(moments: list[float], _: Epoch) -> None:
    moments.append(time.process_time())


def loop(
    pipeline: Pipeline,
    model: nn.Module,
    training: tuple[torch.Tensor, ...],
    validation: tuple[torch.Tensor, ...],
    cut: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]] = lambda batch: batch,
) -> Callable[[], None]:
    """Prepares one epoch and the loss on the validation split. The last tensor of each part is its labels."""
    plan = pipeline.trainer
    spec = plan.optimizer
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)

    def epoch() -> None:
        model.train()
        total = 0.0
        for rows in torch.randperm(len(training[-1])).split(plan.batch_size):
            *inputs, labels = cut(tuple(part[rows] for part in training))
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(model(*inputs)[:, 0], labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.no_grad():
            for rows in torch.arange(len(validation[-1])).split(256):
                *inputs, labels = cut(tuple(part[rows] for part in validation))
                functional.binary_cross_entropy_with_logits(model(*inputs)[:, 0], labels).item()

    return epoch


class Mlp(nn.Module):
    def __init__(self, dense: int, tables: list[tuple[int, int]], hidden: tuple[int, ...], dropout: float):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(*size) for size in tables)
        width, layers = dense + sum(size for _, size in tables), []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, dense: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
        parts = [dense, *(table(buckets[:, index]) for index, table in enumerate(self.tables))]
        return self.layers(torch.cat(parts, dim=1))


def mlp_by_hand(pipeline: Pipeline, prepared: Prepared) -> Callable[[], None]:
    parts = [
        (
            torch.from_numpy(part.inputs["dense"]),
            torch.from_numpy(part.inputs["buckets"]),
            torch.from_numpy(part.rows.labels).float(),
        )
        for part in (prepared.train, prepared.validation)
    ]
    tables = [(len(part.counts), part.dimension) for part in prepared.preprocessing.strings if part.dimension]
    spec = pipeline.model
    model = Mlp(parts[0][0].shape[1], tables, spec.hidden or (64, 32), spec.dropout or 0.0)
    return loop(pipeline, model, *parts)


class Kim(nn.Module):
    """`text_cnn` and `text_average` of texts, as one writes them."""

    def __init__(self, specs: list[Any], sizes: list[int]):
        super().__init__()
        self.specs = specs
        self.tables = nn.ModuleList(
            nn.Embedding(size, spec.dimension, padding_idx=0) for size, spec in zip(sizes, specs, strict=True)
        )
        kim = next(spec for spec in specs if isinstance(spec, TextCnn))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(kim.dimension, kim.filters, width, padding=width - 1) for width in kim.widths
        )
        self.dropout = nn.Dropout(kim.dropout)
        self.out = nn.Linear(sum(spec.columns for spec in specs), 1)

    def forward(self, *texts: torch.Tensor) -> torch.Tensor:
        found = []
        for spec, table, text in zip(self.specs, self.tables, texts, strict=True):
            embedded = table(text)
            if isinstance(spec, TextCnn):
                answers = [each(embedded.transpose(1, 2)) for each in self.convolutions]
                found += [self.dropout(functional.relu(answer).amax(dim=2)) for answer in answers]
            else:
                found.append(embedded.sum(dim=1) / (text > 0).sum(dim=1, keepdim=True).clamp(min=1))
        return self.out(torch.cat(found, dim=1))


def texts_by_hand(pipeline: Pipeline, prepared: Prepared) -> Callable[[], None]:
    parts = []
    for part in (prepared.train, prepared.validation):
        texts = [each for each in part.inputs.values() if isinstance(each, WordNumbers)]
        parts.append((*map(padded, texts), torch.from_numpy(part.rows.labels).float()))
    strings = prepared.preprocessing.strings
    specs, sizes = [part.treatment for part in strings], [len(part.counts) + 1 for part in strings]

    def cut(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        *texts, labels = batch
        return *(text[:, : max(1, int((text > 0).sum(dim=1).max()))] for text in texts), labels

    return loop(pipeline, Kim(specs, sizes), *parts, cut)


def padded(text: WordNumbers) -> torch.Tensor:
    rows = [torch.from_numpy(each) for each in np.split(text.numbers, text.starts[1:-1])]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("accuracy", "speed"))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    if chosen.only != "accuracy":
        found["mlp"] = speed(quality.adult_income(), mlp_by_hand)
        found["text_cnn"] = speed(text_reviews(), texts_by_hand)
    if chosen.only != "speed":
        found["reviews"] = accuracy(text_reviews(), chosen.seeds)
    print(json.dumps(found, indent=None if chosen.json else 1))


if __name__ == "__main__":
    main()
