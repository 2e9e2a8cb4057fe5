"""Training on another processor, where none is: a GPU's tensors without their values show that
nothing of a step is left behind on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Adamw, FtTransformer, Mlp, TabM, TextCnn, WideDeep
from penstock.modelkit import device, objective
from penstock.modelkit import network as tables
from penstock.modelkit.device import CPU, GPU, chosen
from penstock.modelkit.families.autoencoder import Mirror, Reconstruction
from penstock.modelkit.families.ft_transformer import Transformer
from penstock.modelkit.families.mlp import network as layers
from penstock.modelkit.families.tabm import network as members
from penstock.modelkit.families.wide_deep import network as wide
from penstock.modelkit.gradients import Alone
from penstock.modelkit.network import Network, Shape, Tensors, Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.preprocessing import Category, TextSequence
from penstock.modelkit.sequences import Reading
from penstock.modelkit.texts import Reading as TextNetwork
from penstock.modelkit.texts import text_parts

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
    assert (chosen("cpu"), chosen("auto")) == (CPU, CPU)
    with pytest.raises(Invalid, match="the trainer has no GPU") as refused:
        chosen("gpu")
    assert refused.value.where == "training.accelerator"
    assert "Write `auto` or `cpu`, or give it one" in str(refused.value.remedy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (chosen("cpu"), chosen("auto"), chosen("gpu")) == (CPU, GPU, GPU)


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
        assert gradients.of(rows).device == CARD
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
