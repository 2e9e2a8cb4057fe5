"""Training steps and answers on a GPU, against torch as one writes it by hand: `python benchmarks/gpu.py`,
some 4 minutes on one device, 8 at most. `--cpu`: tiny, on a CPU, to show that it runs.

An `mlp`, an `ft_transformer` and a `text_cnn`, in FP32 and in BF16: sides take turns, and each
figure is the median over them. Ours goes the way of a run, with its objective and optimizer; by
hand it is the same layers with torch's own attention, dropout and fused AdamW, all rows on the
device. Then what `compile: cudagraphs` and a set that stays in the machine's memory change, and
rows answered a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Adamw, FtTransformer, Mlp, TextCnn, Trainer, Training
from penstock.modelkit.data_parallel import gradients_of
from penstock.modelkit.device import Device, chosen
from penstock.modelkit.families.ft_transformer import Transformer
from penstock.modelkit.families.mlp import network as layers
from penstock.modelkit.network import Network, Shape, Tensors
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.order import Batch
from penstock.modelkit.preprocessing import TextSequence
from penstock.modelkit.sequences import Reading
from penstock.modelkit.texts import Reading as TextNetwork
from penstock.modelkit.texts import text_parts

MUST, AIM = 0.9, 0.97  # of the speed by hand
LONGEST_S = 420.0  # after which nothing more is begun
WARM_UP = 5
DROPOUT = 0.1

Step = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Size:
    """Sizes of the networks, and of what is measured: `turns` of at least `seconds`, as many rounds of
    `batches` as that takes; `batch`: rows of one, by network.
    """

    rows: int = 200_000
    columns: int = 64
    tokens: int = 32
    hidden: tuple[int, ...] = (512, 512)
    d: int = 192
    blocks: int = 3
    heads: int = 8
    words: int = 128
    known: int = 20_000
    filters: int = 128
    batch: tuple[int, int, int] = (4096, 1024, 512)
    batches: int = 32
    seconds: float = 1.5
    turns: int = 3


TINY = Size(300, 6, 4, (8,), 8, 1, 2, 6, 20, 4, (16, 8, 8), 2, 0.0, 1)


class TransformerByHand(nn.Module):
    """FT-Transformer by torch's own attention and ReLU; the answer's token is the first."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.randn(1, size.d))
        self.weight = nn.Parameter(torch.randn(size.tokens, size.d))
        self.bias = nn.Parameter(torch.randn(size.tokens, size.d))
        spec = FtTransformer(type="ft_transformer", d=size.d, blocks=size.blocks, heads=size.heads)
        block = nn.TransformerEncoderLayer(
            size.d, size.heads, 2 * size.d, spec.attention_dropout, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, size.blocks, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(size.d), nn.ReLU(), nn.Linear(size.d, 1))

    def forward(self, dense: Tensor) -> Tensor:
        tokens = dense[:, :, None] * self.weight + self.bias
        first = self.answer.expand(len(dense), 1, -1)
        found: Tensor = self.head(self.blocks(torch.cat([first, tokens], dim=1))[:, 0])
        return found


class KimByHand(nn.Module):
    """Y. Kim, *Convolutional Neural Networks for Sentence Classification* (EMNLP 2014)."""

    def __init__(self, size: Size, spec: TextCnn) -> None:
        super().__init__()
        self.table = nn.Embedding(size.known + 2, spec.dimension, padding_idx=0)
        self.filters = nn.ModuleList(
            nn.Conv1d(spec.dimension, spec.filters, width, padding=width - 1) for width in spec.widths
        )
        self.out = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(len(spec.widths) * spec.filters, 1))

    def forward(self, numbers: Tensor) -> Tensor:
        embedded = self.table(numbers).transpose(1, 2)
        found = [functional.relu(each(embedded)).amax(dim=2) for each in self.filters]
        answer: Tensor = self.out(torch.cat(found, dim=1))
        return answer


@dataclass(frozen=True)
class Case:
    """A network of ours with its rows, and the same by hand with its input."""

    name: str
    batch: int
    ours: Callable[[], Network]
    split: Split
    hand: Callable[[], nn.Module]
    given: Tensor


def cases(size: Size) -> Iterator[Case]:
    random = torch.Generator().manual_seed(7)
    labels = torch.randint(0, 2, (size.rows,), generator=random)

    def plain(columns: int) -> tuple[Shape, Split]:
        dense = torch.randn(size.rows, columns, generator=random)
        tensors = Tensors(dense, torch.empty(size.rows, 0, dtype=torch.int64))
        return Shape((), columns, 1, columns), Split(tensors, labels)

    shape, split = plain(size.columns)
    spec = Mlp(recipe="plain", hidden=size.hidden, dropout=DROPOUT)
    yield Case(
        "mlp",
        size.batch[0],
        lambda: layers(spec, shape),
        split,
        lambda: by_hand(size),
        split.features.dense,
    )
    narrow, few = plain(size.tokens)
    kind = FtTransformer(type="ft_transformer", d=size.d, blocks=size.blocks, heads=size.heads)
    yield Case(
        "ft_transformer",
        size.batch[1],
        lambda: Transformer(narrow, kind),
        few,
        lambda: TransformerByHand(size),
        few.features.dense,
    )
    yield of_texts(size, labels, random)


def by_hand(size: Size) -> nn.Module:
    widths, made = (size.columns, *size.hidden), []
    for narrow, wide in zip(widths, size.hidden, strict=False):
        made += [nn.Linear(narrow, wide), nn.ReLU(), nn.Dropout(DROPOUT)]
    return nn.Sequential(*made, nn.Linear(widths[-1], 1))


def of_texts(size: Size, labels: Tensor, random: torch.Generator) -> Case:
    """Texts that are all as long as they may be: on both sides the same work."""
    spec = TextCnn(
        source_field="s.t", encode="text_cnn", widths=(3, 4, 5), filters=size.filters, dropout=DROPOUT
    )
    counts = (1,) * size.known
    names = tuple(f"w{number}" for number in range(size.known))
    text = TextSequence("t", names, counts, (*counts, 0), Reading(size.words, False), spec)
    numbers = torch.randint(1, size.known + 1, (size.rows, size.words), generator=random)
    starts = torch.arange(size.rows + 1) * size.words
    dense, buckets = torch.empty(size.rows, 0), torch.empty(size.rows, 0, dtype=torch.int64)
    tensors = Tensors(dense, buckets, sequences=((starts, numbers.flatten()),))
    shape = Shape((text,), spec.columns, 1)
    return Case(
        "text_cnn",
        size.batch[2],
        lambda: TextNetwork(text_parts([text]), layers(Mlp(recipe="plain", hidden=()), shape)),
        Split(tensors, labels),
        lambda: KimByHand(size, spec),
        numbers,
    )


class Bench:
    def __init__(self, device: Device, size: Size) -> None:
        self._device, self._size, self._began = device, size, time.monotonic()
        self._place = device.place()

    def table(self) -> Iterator[dict[str, Any]]:
        for case in cases(self._size):
            for precision in ("fp32", "bf16"):
                how = replace(self._device, precision=precision)
                yield self._row(case, f"step, {precision}", self._ours(case, how), self._hand(case, how))
            graphs = replace(self._device, precision="bf16", compile="cudagraphs")
            if self._device.kind == "cuda":
                plain = replace(graphs, compile="none")
                yield self._row(case, "step, bf16, graphs", self._ours(case, graphs), self._hand(case, plain))
            streamed = self._ours(case, self._device, resident=False)
            yield self._row(
                case, "step, rows stay in memory", streamed, self._hand(case, self._device), on="cpu"
            )
            yield self._row(case, "answers", self._answers(case), self._answered(case))

    def _row(self, case: Case, what: str, ours: Step, hand: Step, on: str = "") -> dict[str, Any]:
        """Rows a second of both, the device taking turns."""
        row: dict[str, Any] = {"network": case.name, "what": what}
        if time.monotonic() - self._began > LONGEST_S:
            return row | {"left out": "time is up"}
        size, found = self._size, {"ours": [], "hand": []}
        order = torch.randint(
            size.rows, (size.batches, case.batch), generator=torch.Generator().manual_seed(1)
        )
        sides = {"ours": (ours, order.to(on or self._place)), "hand": (hand, order.to(self._place))}
        for _ in range(size.turns):
            for side, (step, batches) in sides.items():
                found[side].append(case.batch / self._seconds(step, batches))
        mine, theirs = (statistics.median(found[side]) for side in ("ours", "hand"))
        return row | {"ours": mine, "by hand": theirs, "ratio": mine / theirs}

    def _seconds(self, step: Step, batches: Tensor) -> float:
        """Seconds of a step; the device is waited for once a round of batches."""
        for rows in batches[:WARM_UP]:
            step(rows)
        self._wait()
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < self._size.seconds:
            for rows in batches:
                step(rows)
            self._wait()
            count += len(batches)
        return (time.perf_counter() - began) / count

    def _wait(self) -> None:
        if self._device.kind == "cuda":
            torch.cuda.synchronize()

    def _ours(self, case: Case, how: Device, *, resident: bool = True) -> Step:
        network = case.ours().to(self._place).train()
        split = case.split.at(self._place)
        if not resident:
            split = replace(split, features=replace(case.split.features, place=self._place))
        plan = Trainer(batch_size=case.batch, optimizer=Adamw())
        gradients = gradients_of(network, Objective("binary"), split, plan, device=how)
        optimizer = optimizer_of(network.parameters(), plan.optimizer)

        def step(rows: Tensor) -> None:
            gradients.of(Batch(rows, split.features, rows))
            optimizer.step(1e-4)

        return step

    def _hand(self, case: Case, how: Device) -> Step:
        network = case.hand().to(self._place).train()
        given, labels = case.given.to(self._place), case.split.labels.to(self._place).float()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

        def step(rows: Tensor) -> None:
            optimizer.zero_grad()
            with torch.autocast(how.kind, torch.bfloat16, enabled=how.precision == "bf16"):
                logits = network(given[rows])
            functional.binary_cross_entropy_with_logits(logits[:, 0].float(), labels[rows]).backward()
            optimizer.step()

        return step

    def _answers(self, case: Case) -> Step:
        """Answers to a batch, as the validation split's are made."""
        network, split = case.ours().to(self._place), case.split.at(self._place)
        return lambda rows: network.predict(split.features.between(0, len(rows)))

    def _answered(self, case: Case) -> Step:
        network, given = case.hand().to(self._place).eval(), case.given.to(self._place)

        def answer(rows: Tensor) -> Tensor:
            with torch.no_grad():
                found: Tensor = network(given[: len(rows)])
            return found

        return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    try:
        device = chosen(Training(accelerator="cpu" if asked.cpu else "gpu"))
    except Invalid as error:
        raise SystemExit(f"{error}. With `--cpu` it shows that it runs") from error
    if asked.cpu:
        torch.set_num_threads(1)
    if not asked.cpu and not asked.json:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; rows a second", flush=True)
    for row in Bench(device, TINY if asked.cpu else Size()).table():
        print(json.dumps(row) if asked.json else line(row, judged=not asked.cpu), flush=True)


def line(row: dict[str, Any], *, judged: bool) -> str:
    told = f"{row['network']:<15} {row['what']:<26}"
    if "ratio" not in row:
        return f"{told} left out: {row['left out']}"
    kept = "aim" if row["ratio"] >= AIM else "must" if row["ratio"] >= MUST else "missed"
    said = kept if judged and row["what"] in ("step, fp32", "step, bf16") else ""
    return (
        f"{told} {row['ours']:>12,.0f} {row['by hand']:>12,.0f} by hand  {row['ratio']:.2f} {said}".rstrip()
    )


if __name__ == "__main__":
    main()
