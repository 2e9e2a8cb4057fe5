"""The loop: a run that was killed equals one that was not, seeds decide everything, the best epoch
is kept.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from penstock.contracts import pipeline
from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.pipeline import EarlyStopping, Trainer
from penstock.modelkit.fairness import Penalty
from penstock.modelkit.family import Epoch
from penstock.modelkit.features import WordWeights
from penstock.modelkit.network import Layers, Network, Shape, Tensors
from penstock.modelkit.optimizer import Optimizer, learning_rate
from penstock.modelkit.preprocessing import Category
from penstock.modelkit.training import (
    Objective,
    Split,
    seed_everything,
    train,
    weights_digest,
)

EMBEDDED = (Category("c", ("a", "b"), (3, 40, 37, 0), 2),)


def spec(**keys: Any) -> Any:
    return TypeAdapter(pipeline.Optimizer).validate_python(keys)


def schedule(**keys: Any) -> Any:
    return TypeAdapter(pipeline.Schedule).validate_python(keys)


PLAN = Trainer(epochs=6, batch_size=32, gradient_clip=1.0, early_stopping=None)


def split(count: int, seed: int) -> Split:
    random = np.random.default_rng(seed)
    dense = random.normal(size=(count, 4)).astype(np.float32)
    buckets = random.integers(0, 3, (count, 1))
    counts = random.integers(0, 4, count)
    words = WordWeights(
        starts=np.concatenate([[0], counts.cumsum()]),
        columns=np.concatenate([random.choice(6, size=n, replace=False) for n in counts]).astype(np.int64),
        weights=random.random(counts.sum()).astype(np.float32),
        width=6,
    )
    labels = (dense[:, 0] + (buckets[:, 0] == 1) + random.normal(0, 0.5, count) > 0.5).astype(np.int64)
    groups = torch.from_numpy(random.integers(-1, 2, count))
    inputs = {"dense": dense, "buckets": buckets, "words0": words}
    return Split(Tensors.of(inputs), torch.from_numpy(labels), groups)


def network(seed: int = 7, dropout: float = 0.2) -> Network:
    seed_everything(seed)
    return Layers(Shape(EMBEDDED, 10, 1), hidden=(8,), dropout=dropout)


class Killed(BaseException):
    pass


def trained(
    plan: Trainer = PLAN, *, checkpoint: Path | None = None, kill_after: int = 0, seed: int = 7
) -> tuple[Network, tuple[Epoch, ...]]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == kill_after:
            raise Killed

    made = network(seed)
    objective = Objective("binary", penalty=Penalty("equalized_odds", 0.5, 2))
    return made, train(
        made,
        objective,
        split(200, 1),
        split(80, 2),
        plan,
        seed=seed,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("stopping", [None, EarlyStopping(patience=2)])
def test_resumed_equals_uninterrupted(tmp_path: Path, optimizer: Any, stopping: EarlyStopping | None) -> None:
    plan = PLAN.model_copy(
        update={"optimizer": spec(type=optimizer, learning_rate=0.03), "early_stopping": stopping}
    )
    whole, history = trained(plan)
    checkpoint = tmp_path / "checkpoint.pt"
    for moment in (1, 3):
        with pytest.raises(Killed):
            trained(plan, checkpoint=checkpoint, kill_after=moment)
    resumed, again = trained(plan, checkpoint=checkpoint)
    assert weights_digest(resumed) == weights_digest(whole)
    assert [epoch.train_loss for epoch in again] == [epoch.train_loss for epoch in history]
    ended, _ = trained(plan, checkpoint=checkpoint)  # killed after the last epoch
    assert weights_digest(ended) == weights_digest(whole)


def test_restored_epochs_are_told_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        trained(checkpoint=checkpoint, kill_after=2)
    told: list[int] = []
    train(
        network(),
        Objective("binary", penalty=Penalty("equalized_odds", 0.5, 2)),
        split(200, 1),
        split(80, 2),
        PLAN,
        seed=7,
        checkpoint=checkpoint,
        on_epoch=lambda epoch: told.append(epoch.number),
    )
    assert told == [1, 2, 3, 4, 5, 6]


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        trained(checkpoint=checkpoint, kill_after=1)
    with pytest.raises(Conflict, match="belongs to another run"):
        trained(PLAN.model_copy(update={"batch_size": 16}), checkpoint=checkpoint)
    with pytest.raises(Conflict):
        trained(checkpoint=checkpoint, seed=8)


def test_a_checkpoint_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        trained(checkpoint=checkpoint, kill_after=2)
    checkpoint.with_suffix(".new").write_bytes(b"half")
    resumed, _ = trained(checkpoint=checkpoint)
    assert weights_digest(resumed) == weights_digest(trained()[0])


def test_seeds_decide() -> None:
    assert weights_digest(trained()[0]) == weights_digest(trained()[0])
    assert weights_digest(trained()[0]) != weights_digest(trained(seed=8)[0])


def test_early_stopping_keeps_the_best_epoch() -> None:
    plan = Trainer(
        epochs=60, batch_size=16, optimizer=spec(learning_rate=0.1), early_stopping=EarlyStopping(patience=3)
    )
    made = network(dropout=0.0)
    validation = split(80, 2)
    objective = Objective("binary")
    history = train(made, objective, split(60, 1), validation, plan, seed=7)
    best = min(epoch.validation_loss for epoch in history)
    assert len(history) < 60
    assert [epoch.validation_loss for epoch in history].index(best) == len(history) - 1 - 3
    assert objective.loss(made.predict(validation.features), validation.labels, None).item() == pytest.approx(
        best
    )


def test_a_loss_that_is_no_number_is_a_sentence() -> None:
    plan = Trainer(
        epochs=3, optimizer=spec(type="sgd", learning_rate=10, weight_decay=1e9), early_stopping=None
    )
    with pytest.raises(
        Invalid,
        match=(
            r"trainer.optimizer.learning_rate: the loss is no number any more in epoch \d\. Lower the"
            r" learning"
        ),
    ):
        trained(plan)


def test_schedules() -> None:
    steps = 100
    cosine = [learning_rate(schedule(type="cosine", warmup=0.1), 2.0, step, steps) for step in range(steps)]
    assert cosine[0] == pytest.approx(0.2)
    assert cosine[9] == cosine[10] == pytest.approx(2.0)
    assert cosine[55] == pytest.approx(1.0)
    assert cosine[99] < 0.01
    assert all(later <= earlier for earlier, later in itertools.pairwise(cosine[10:]))
    linear = [learning_rate(schedule(type="linear", warmup=0), 1.0, step, steps) for step in range(steps)]
    assert linear[0] == 1.0
    assert linear[50] == pytest.approx(0.5)
    assert learning_rate(schedule(type="constant", warmup=0), 0.3, 99, steps) == 0.3


@pytest.mark.slow  # torch's own optimizers load its compiler
@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_optimizers_are_those_of_torch(kind: Any) -> None:
    ours, theirs = (torch.nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = Optimizer(ours.parameters(), spec(type=kind, learning_rate=0.01, weight_decay=0.1))
    torchs: Any = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9),
    }[kind](theirs.parameters())
    data = torch.randn(20, 16, 5)
    for batch in data:
        for module, optimizer in ((ours, mine), (theirs, torchs)):
            for parameter in module.parameters():
                parameter.grad = None
            (module(batch) ** 2).sum().backward()
            optimizer.step(0.01) if optimizer is mine else optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradient_clip_is_torchs() -> None:
    layer, other = (torch.nn.Linear(3, 2) for _ in range(2))
    for parameter, twin in zip(layer.parameters(), other.parameters(), strict=True):
        parameter.grad = torch.randn_like(parameter) * 10
        twin.grad = parameter.grad.clone()
    Optimizer(layer.parameters(), spec()).clip(0.5)
    torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    for parameter, twin in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad)


def test_class_weights_count_classes_alike() -> None:
    logits, labels = torch.zeros(4, 1), torch.tensor([1, 0, 0, 0])
    logits[0] = 2.0
    weighted = Objective("binary", class_weights=torch.tensor([4 / 6, 2.0])).loss(logits, labels, None).item()
    assert weighted == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2, rel=1e-5)


def test_sparse_words_become_the_same_dense_rows() -> None:
    tensors = split(50, 3).features
    rows = torch.tensor([4, 0, 49, 4])
    dense, _ = tensors.batch(rows)
    starts, columns, weights, width = tensors.words[0]
    for index, row in enumerate(rows.tolist()):
        expected = torch.zeros(width)
        expected[columns[starts[row] : starts[row + 1]]] = weights[starts[row] : starts[row + 1]]
        torch.testing.assert_close(dense[index, 4:], expected)


def test_a_bucket_that_was_never_filled_is_the_average() -> None:
    made = network()
    embedding = made.embeddings[0]
    assert isinstance(embedding, torch.nn.Embedding)
    shares = torch.tensor([3, 40, 37, 0.0]) / 80
    torch.testing.assert_close(embedding.weight[3], (shares[:3, None] * embedding.weight[:3]).sum(dim=0))
