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
from torch.nn import functional

from penstock.contracts import pipeline
from penstock.contracts.errors import Conflict, Invalid, Unavailable
from penstock.contracts.pipeline import EarlyStopping, Trainer
from penstock.modelkit.dropout import Dropout
from penstock.modelkit.fairness import Penalty
from penstock.modelkit.family import Epoch
from penstock.modelkit.features import WordWeights
from penstock.modelkit.network import Layers, Network, Shape, Tensors
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.preprocessing import Category
from penstock.modelkit.realmlp import selu
from penstock.modelkit.schedules import Moment, learning_rate
from penstock.modelkit.training import seed_everything, train, weights_digest

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
@pytest.mark.parametrize("kind", ["cosine", "reduce_on_plateau"])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, optimizer: Any, stopping: EarlyStopping | None, kind: str
) -> None:
    shape = {"patience": 0, "threshold": 0.1} if kind == "reduce_on_plateau" else {}
    plan = PLAN.model_copy(
        update={
            "optimizer": spec(type=optimizer, learning_rate=0.03),
            "schedule": schedule(type=kind, **shape),
            "early_stopping": stopping,
        }
    )
    whole, history = trained(plan)
    checkpoint = tmp_path / "checkpoint.pt"
    for moment in (1, 3):
        with pytest.raises(Killed):
            trained(plan, checkpoint=checkpoint, kill_after=moment)
    resumed, again = trained(plan, checkpoint=checkpoint)
    assert weights_digest(resumed) == weights_digest(whole)
    for name in ("train_loss", "learning_rate"):
        assert [getattr(epoch, name) for epoch in again] == [getattr(epoch, name) for epoch in history]
    if kind == "reduce_on_plateau" and stopping is None:
        assert history[-1].learning_rate < 0.03
    ended, _ = trained(plan, checkpoint=checkpoint)  # killed after the last epoch
    assert weights_digest(ended) == weights_digest(whole)


def test_every_epoch_is_timed() -> None:
    _, history = trained()
    for epoch in history:
        assert epoch.rows == 200
        assert 0 < epoch.data_s < epoch.took_s
        assert 0 < epoch.step_s * math.ceil(200 / PLAN.batch_size) < epoch.took_s
        assert epoch.communication_s == 0


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


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        trained(checkpoint=checkpoint, kill_after=2)
    checkpoint.with_suffix(".new").symlink_to("/dev/full")
    with pytest.raises(Unavailable, match="the disk is full"):
        trained(checkpoint=checkpoint)
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


STEPS = 40
AN_EPOCH = 4
LOSSES = (0.9, 0.8, 0.85, 0.81, 0.7, 0.7, 0.69999, 0.71, 0.5, 0.5)  # validation losses of ten epochs


def rates(base: float = 2.0, steps: int = STEPS, **keys: Any) -> list[float]:
    """The rate of every step."""
    return [
        learning_rate(schedule(**keys), base, Moment(step, steps, AN_EPOCH, LOSSES[: step // AN_EPOCH]))
        for step in range(steps)
    ]


def test_schedules() -> None:
    cosine = rates(type="cosine", warmup=0.1, steps=100)
    assert cosine[0] == pytest.approx(0.2)
    assert cosine[9] == cosine[10] == pytest.approx(2.0)
    assert cosine[55] == pytest.approx(1.0)
    assert cosine[99] < 0.01
    assert all(later <= earlier for earlier, later in itertools.pairwise(cosine[10:]))
    linear = rates(1.0, type="linear", warmup=0, steps=100)
    assert linear[0] == 1.0
    assert linear[50] == pytest.approx(0.5)
    assert set(rates(0.3, type="constant", warmup=0)) == {0.3}
    assert rates(type="step", warmup=0, step_size=3, gamma=0.5)[11:13] == [2.0, 1.0]
    cycle = rates(type="one_cycle", steps=100)
    assert cycle[0] == pytest.approx(2.0 / 25)
    assert max(cycle) == cycle[29] == pytest.approx(2.0)
    assert cycle[99] == pytest.approx(2.0 / 25 / 1e4)
    plateau = rates(type="reduce_on_plateau", warmup=0, patience=1)
    falls = [at // AN_EPOCH for at in range(1, STEPS) if plateau[at] < plateau[at - 1]]
    assert falls == [4, 7]  # after two epochs each that were no better; 0.69999 is no better than 0.7
    assert rates(type="reduce_on_plateau", warmup=0, patience=1, min_learning_rate=0.5)[-1] == 0.5


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        *((kind, 2.0) for kind in ("constant", "linear", "cosine", "step", "reduce_on_plateau")),
        ("one_cycle", 2.0 / 25),
    ],
)
def test_every_schedule_warms_up_in_a_straight_line(kind: str, first: float) -> None:
    """And goes on as it would without, on the steps that are left."""
    warmed = rates(type=kind, warmup=0.2)
    assert warmed[:8] == pytest.approx([first * (step + 1) / 8 for step in range(8)])
    assert warmed[8] == pytest.approx(first)
    if kind != "reduce_on_plateau":  # its epochs count from the first
        assert warmed[8:] == pytest.approx(rates(type=kind, warmup=0, steps=STEPS - 8))
    assert all(rate >= 0 for rate in rates(type=kind, warmup=0.9, steps=1))


@pytest.mark.slow  # torch's own optimizers load its compiler
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "step", "one_cycle", "reduce_on_plateau"])
def test_schedules_are_those_of_torch(kind: str) -> None:
    from torch.optim import lr_scheduler

    keys: Any = {"step": {"step_size": 3, "gamma": 0.5}, "reduce_on_plateau": {"patience": 1}}.get(kind, {})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    torchs: Any = {
        "constant": lambda: lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "linear": lambda: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS),
        "step": lambda: lr_scheduler.StepLR(optimizer, **keys),
        "one_cycle": lambda: lr_scheduler.OneCycleLR(
            optimizer, max_lr=2.0, total_steps=STEPS, cycle_momentum=False
        ),
        "reduce_on_plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, **keys),
    }[kind]()
    expected = []
    for step in range(STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        ends = (step + 1) % AN_EPOCH == 0
        if kind == "reduce_on_plateau" and ends:
            torchs.step(LOSSES[step // AN_EPOCH])
        elif kind not in ("step", "reduce_on_plateau") or (kind == "step" and ends):
            torchs.step()
    assert rates(type=kind, warmup=0, **keys) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.slow  # torch's own optimizers load its compiler
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("adamw", {}),
        ("adamw", {"beta1": 0.8, "beta2": 0.95}),
        ("adam", {}),
        ("sgd", {"momentum": 0.0}),
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_optimizers_are_those_of_torch(kind: Any, keys: dict[str, Any]) -> None:
    ours, theirs = (torch.nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = optimizer_of(ours.parameters(), spec(type=kind, learning_rate=0.01, weight_decay=0.1, **keys))
    if "beta1" in keys:
        keys = {"betas": (keys["beta1"], keys["beta2"])}
    named: Any = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind]
    torchs = named(theirs.parameters(), lr=0.01, weight_decay=0.1, **keys)
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
    optimizer_of(layer.parameters(), spec()).clip(0.5)
    torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
    for parameter, twin in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    found = Dropout(0.3)(torch.ones(400, 500, dtype=dtype))
    assert (found == 0).float().mean().item() == pytest.approx(0.3, abs=0.004)
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=0.01)
    assert (Dropout(0.3).eval()(found) == found).all()


def test_selu_is_torchs() -> None:
    value = torch.linspace(-20, 20, 4001, requires_grad=True)
    ours, theirs = (torch.autograd.grad(of(value).sum(), value)[0] for of in (selu, functional.selu))
    torch.testing.assert_close(selu(value), functional.selu(value))
    torch.testing.assert_close(ours, theirs)


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
