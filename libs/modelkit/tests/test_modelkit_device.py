"""Training on another processor, where none is: a GPU's tensors without their values show that
nothing of a step is left behind on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Adamw, FtTransformer, Mlp, TabM, TextCnn, Trainer, Training, WideDeep
from penstock.modelkit import device, objective
from penstock.modelkit import network as tables
from penstock.modelkit.build import build
from penstock.modelkit.device import CPU, Device, chosen
from penstock.modelkit.device_use import OPEN, DeviceUse, Use
from penstock.modelkit.families.autoencoder import Mirror, Reconstruction
from penstock.modelkit.families.ft_transformer import Transformer
from penstock.modelkit.families.mlp import network as layers
from penstock.modelkit.families.tabm import network as members
from penstock.modelkit.families.wide_deep import network as wide
from penstock.modelkit.gradients import Alone
from penstock.modelkit.network import Network, Shape, Tensors, Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.order import Batch
from penstock.modelkit.preprocessing import Category, TextSequence
from penstock.modelkit.sequences import Reading
from penstock.modelkit.texts import Reading as TextNetwork
from penstock.modelkit.texts import text_parts
from penstock.modelkit.training import seed_everything, train, weights_digest

CARD = torch.device("cuda", 0)
SHAPE = Shape((Category("c", ("a", "b"), (3, 40, 37, 0), 2), Category("d", ("x",), (9, 1), 2)), 6, 1, 4)
TEXT = TextSequence(
    "t",
    ("a", "b", "c"),
    (5, 9, 8),
    (5, 9, 8, 0),
    Reading(8, False),
    TextCnn(source_field="s.t", encode="text_cnn", widths=(2, 3), filters=4),
)


def transformer() -> Network:
    return Transformer(SHAPE, FtTransformer(type="ft_transformer", d=8, blocks=2, heads=2))


def reading() -> Network:
    shape = SHAPE._replace(strings=(*SHAPE.strings, TEXT), dense=6 + TEXT.treatment.columns)
    return TextNetwork(text_parts([TEXT]), layers(Mlp(hidden=(8,)), shape))


NETWORKS: dict[str, Callable[[], Trainable]] = {
    "mlp": lambda: layers(Mlp(hidden=(8,), dropout=0.3), SHAPE),
    "realmlp": lambda: layers(Mlp(recipe="realmlp", hidden=(8,), dropout=0.3), SHAPE),
    "tabm": lambda: members(TabM(type="tabm", k=4, hidden=(8,)), SHAPE),
    "wide_deep": lambda: wide(WideDeep(type="wide_deep", hidden=(8,), crosses=(("c", "d"),)), SHAPE),
    "ft_transformer": transformer,
    "text_cnn": reading,
    "autoencoder": lambda: Mirror(6, (4,), 2),
}


def split(kind: str, count: int = 20) -> Split:
    random = np.random.default_rng(1)
    starts = np.concatenate([[0], random.integers(0, 4, count).cumsum()])
    made: Any = Tensors.of(
        {
            "dense": random.normal(size=(count, 6)).astype(np.float32),
            "buckets": np.stack([random.integers(0, 4, count), random.integers(0, 2, count)], axis=1),
        }
    )
    if kind == "text_cnn":
        numbers = torch.from_numpy(random.integers(1, 5, starts[-1]))
        made = replace(made, sequences=((torch.from_numpy(starts), numbers),))
    labels = made.dense if kind == "autoencoder" else torch.from_numpy(random.integers(0, 2, count))
    return Split(made, labels, weights=torch.rand(count))


def test_a_processor_is_chosen_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (chosen(Training(accelerator="cpu")), chosen(Training())) == (CPU, CPU)
    assert chosen(Training(compile="cudagraphs", precision="bf16")) == Device(precision="bf16")
    with pytest.raises(Invalid, match="the trainer has no GPU") as refused:
        chosen(Training(accelerator="gpu"))
    assert refused.value.where == "training.accelerator"
    assert "Write `auto` or `cpu`, or give it one" in str(refused.value.remedy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said: list[Any] = ["cpu", "auto", "gpu"]
    assert [chosen(Training(accelerator=each)).kind for each in said] == ["cpu", "cuda", "cuda"]
    asked = Training(precision="bf16", compile="cudagraphs", deterministic=True)
    assert chosen(asked) == Device("cuda", "bf16", "cudagraphs", deterministic=True)


def test_each_worker_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a cluster's machines are not known here: Ray looks for them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    two, three = Training(workers=2), Training(workers=3)
    assert (chosen(two).kind, chosen(three).kind) == ("cuda", "cpu")
    assert [chosen(two).place(rank).index for rank in range(2)] == [0, 1]
    assert chosen(two).messages == "nccl"
    with pytest.raises(Invalid, match="3 workers were asked for, a GPU each, and the trainer has 2"):
        chosen(three.model_copy(update={"accelerator": "gpu"}))
    asked = three.model_copy(update={"accelerator": "gpu"})
    assert (chosen(asked, elsewhere=True).kind, chosen(three, elsewhere=True).kind) == ("cuda", "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # an actor's own, of many
    assert chosen(Training()).place(rank=5) == CARD


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_is_all_on_the_gpu(kind: str, resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backward pass aside, which asks the driver for a real one."""
    monkeypatch.setattr(objective, "has_room", lambda place, size: resident)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    # A text's length is a value, too.
    monkeypatch.setattr(tables, "_padded", lambda starts, numbers, rows: numbers.new_ones(len(rows), 7))
    network, known = NETWORKS[kind](), split(kind)
    goal = Reconstruction("regression") if kind == "autoencoder" else Objective("binary", torch.ones(2))
    losses = []
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fake.shape_env = torch.fx.experimental.symbolic_shapes.ShapeEnv()
        monkeypatch.setattr(torch.Tensor, "backward", lambda loss: losses.append(loss))
        network.to(CARD)
        given = known.at(CARD)
        assert given.features.dense.device == (CARD if resident else torch.device("cpu"))
        gradients = Alone(network, goal.at(CARD), given)
        rows = torch.arange(5, device=given.features.dense.device)
        assert gradients.of(Batch(rows, given.features, rows)).device == CARD
        optimizer = optimizer_of(network.parameters(), Adamw())
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.clip(1.0)
        optimizer.step(0.1)
        network.average_unseen()
        if kind != "ft_transformer":  # whose copy in FP64 wants values
            assert gradients.answers(given.features).device == CARD
    assert [loss.device for loss in losses] == [CARD]


def test_a_set_stays_on_a_gpu_that_has_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (1000, 2000))
    assert [device.has_room(CARD, size) for size in (500, 501)] == [True, False]
    assert device.has_room(torch.device("cpu"), 1 << 60)


def trained(kind: str, device: Device) -> tuple[Trainable, list[float]]:
    seed_everything(7)
    network = NETWORKS[kind]()
    goal = Reconstruction("regression") if kind == "autoencoder" else Objective("binary")
    plan = Trainer(epochs=3, batch_size=16, early_stopping=None)
    history = train(network, goal, split(kind, 200), split(kind, 80), plan, seed=7, device=device)
    return network, [epoch.validation_loss for epoch in history]


@pytest.mark.parametrize("kind", NETWORKS)
def test_half_the_bits_lead_almost_as_far(kind: str) -> None:
    """And leave weights in full precision, other than those of it."""
    (half, found), (whole, expected) = (trained(kind, device) for device in (Device(precision="bf16"), CPU))
    assert found == pytest.approx(expected, abs=0.02)
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}
    assert weights_digest(half) != weights_digest(whole)


def test_the_graph_is_the_network_that_half_the_bits_made(world: Any) -> None:
    random = np.random.default_rng(3)
    income = random.normal(size=300)
    labels = [bool(value) for value in income + random.normal(0, 0.5, 300) > 0]
    parts = [world.part(name, {"income": income}, labels) for name in ("train", "validation")]
    pipeline = world.pipeline({"income": "number"}, trainer={"epochs": 3}, model={"type": "mlp"})
    built = build(pipeline, *parts, loop=partial(train, device=Device(precision="bf16")))
    assert built.parity < 1e-6
    assert built.metrics["auroc"] > 0.8


def test_a_compiled_step_is_the_same() -> None:
    """By the backend that changes nothing but who calls."""
    compiled: Any = "eager"
    (network, losses), (other, expected) = (
        trained("mlp", device) for device in (Device(compile=compiled), CPU)
    )
    assert weights_digest(network) == weights_digest(other)
    assert losses == expected


@pytest.mark.parametrize("asked", [True, False])
def test_a_gpu_is_deterministic_while_it_is_asked_to_be(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    state = torch.manual_seed(7).get_state()
    torch.manual_seed(8)
    torch.set_rng_state(state)  # all that a worker is given
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with Device("cuda", deterministic=asked).ready(rank=1) as place:
        assert torch.are_deterministic_algorithms_enabled() == asked
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == asked
    assert not torch.are_deterministic_algorithms_enabled()
    assert taken == [place] == [torch.device("cuda", 1)]
    assert seeds == [7]


class Moment:
    """Stands for an event in a GPU's stream, each 10 ms after the one before."""

    number = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Moment.number += 1
        self.at, self.ended = 10.0 * Moment.number, False

    def synchronize(self) -> None:
        self.ended = True

    def elapsed_time(self, later: Moment) -> float:
        assert later.ended, "else its time is not known"
        return later.at - self.at


def test_the_use_of_a_gpu_is_that_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    most = iter([5 << 30, 2 << 30])
    resets: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Event", Moment)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda place: next(most))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    use = DeviceUse(CARD)
    for steps, held in ((OPEN + 3, 5 << 30), (2, 2 << 30)):
        for _ in range(steps):
            with use.step():
                pass
        used = use.taken()
        assert (round(used.seconds, 9), used.most) == (round(0.01 * steps, 9), held)
    assert resets == [CARD, CARD]


def test_a_core_has_no_use_to_tell_of() -> None:
    use = DeviceUse(torch.device("cpu"))
    with use.step():
        pass
    assert use.taken() == Use(0.0, 0)
