"""Workers that share each batch's rows lead to one worker's weights."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import (
    EarlyStopping,
    FtTransformer,
    Mlp,
    Sgd,
    TabM,
    TextCnn,
    Trainer,
)
from penstock.modelkit.fairness import Penalty
from penstock.modelkit.families.ft_transformer import Transformer
from penstock.modelkit.families.mlp import network as layers
from penstock.modelkit.families.tabm import network as members
from penstock.modelkit.family import Epoch
from penstock.modelkit.fitting import Fitting
from penstock.modelkit.network import Shape, Tensors, Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.preprocessing import Category, TextSequence
from penstock.modelkit.process_group import PeerLost, by_file, joined
from penstock.modelkit.sequences import Reading
from penstock.modelkit.texts import Reading as TextNetwork
from penstock.modelkit.texts import text_parts
from penstock.modelkit.training import seed_everything, weights_digest

pytestmark = pytest.mark.process("unhurried")

SHAPE = Shape((Category("c", ("a", "b"), (3, 40, 37, 0), 2),), 4, 1, 4)
ROWS, SEED = 193, 7  # in batches of 16 the last has one row: fewer than workers
NETWORKS: dict[str, Callable[[], Trainable]] = {
    "linear": lambda: layers(Mlp(hidden=(), dropout=0.0), SHAPE),
    "mlp": lambda: layers(Mlp(hidden=(16, 8), dropout=0.3), SHAPE),
    "realmlp": lambda: layers(Mlp(recipe="realmlp", hidden=(16,), dropout=0.2), SHAPE),
    "tabm": lambda: members(TabM(type="tabm", k=4, hidden=(8,), dropout=0.2), SHAPE),
    "ft_transformer": lambda: Transformer(
        SHAPE, FtTransformer(type="ft_transformer", d=8, blocks=2, heads=2, residual_dropout=0.1)
    ),
}

PLAN = Trainer(epochs=3, batch_size=16, gradient_clip=1.0, early_stopping=None)
# A key's bias has no gradient but what rounding leaves, and Adam makes steps of any size from that.
PLANS = {"ft_transformer": PLAN.model_copy(update={"optimizer": Sgd(type="sgd", learning_rate=0.1)})}


def split(count: int, seed: int, **more: Any) -> Split:
    random = np.random.default_rng(seed)
    dense = random.normal(size=(count, 4)).astype(np.float32)
    buckets = random.integers(0, 3, (count, 1))
    labels = (dense[:, 0] + (buckets[:, 0] == 1) + random.normal(0, 0.5, count) > 0.5).astype(np.int64)
    # Few rows are of group 1: in a batch most shares have none.
    groups = torch.from_numpy(np.where(random.random(count) < 0.2, 1, 0) - (random.random(count) < 0.1))
    weights = torch.from_numpy(np.where(random.random(count) < 0.5, 0, random.random(count) * 9))
    given = {"groups": groups, "weights": weights.float()}
    features = Tensors.of({"dense": dense, "buckets": buckets})
    return Split(features, torch.from_numpy(labels), **{name: given[name] for name in more})


def fitting(kind: str = "mlp", *columns: str, plan: Trainer | None = None, **objective: Any) -> Fitting:
    seed_everything(SEED)
    made = NETWORKS[kind]()
    named = dict.fromkeys(columns)
    plan = plan or PLANS.get(kind, PLAN)
    goal = Objective("binary", **objective)
    parts = split(ROWS, 1, **named), split(81, 2, **named)
    return Fitting(made, goal, *parts, plan, SEED, torch.get_rng_state())


def of_texts() -> Fitting:
    """An mlp behind convolutions over a text of 0 to 7 words."""
    treatment = TextCnn(source_field="s.t", encode="text_cnn", widths=(2, 3), filters=4)
    text = TextSequence("t", ("a", "b", "c"), (5, 9, 8), (5, 9, 8, 0), Reading(8, False), treatment)
    seed_everything(SEED)
    read = text_parts([text])
    shape = SHAPE._replace(strings=(*SHAPE.strings, text), dense=4 + treatment.columns)
    network = TextNetwork(read, layers(Mlp(hidden=(8,), dropout=0.1), shape))

    def with_text(part: Split) -> Split:
        counts = np.random.default_rng(3).integers(0, 8, len(part.labels))
        starts = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
        numbers = torch.arange(int(starts[-1])) % 4 + 1
        return replace(part, features=replace(part.features, sequences=((starts, numbers),)))

    plain = fitting()
    return replace(
        plain,
        network=network,
        training=with_text(plain.training),
        validation=with_text(plain.validation),
    )


class Killed(BaseException):
    pass


def worker(folder: Path, rank: int, size: int, kill_after: int) -> None:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == kill_after:
            raise Killed

    given = Fitting.read(folder / "fitting.pt")
    store = by_file(folder / f"store-{size}-{kill_after}", size)
    with joined(store, rank, size) as group:
        history = given.train(group, checkpoint=folder / "checkpoint.pt", on_epoch=on_epoch)
    told = given.network.state_dict(), [epoch.validation_loss for epoch in history]
    torch.save(told, folder / f"{rank}.pt")


Told = tuple[Trainable, list[float]]


def together(given: Fitting, size: int, folder: Path, *, kill_after: int = 0) -> Told:
    """Network that `size` processes train, all alike, and the losses by epoch."""
    folder.mkdir(exist_ok=True)
    given.write(folder / "fitting.pt")
    forks = multiprocessing.get_context("fork")
    workers = [forks.Process(target=worker, args=(folder, rank, size, kill_after)) for rank in range(size)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    told = [torch.load(folder / f"{rank}.pt") for rank in range(size) if (folder / f"{rank}.pt").exists()]
    for state, losses in told:
        assert losses == told[0][1]
        assert all(torch.equal(value, told[0][0][name]) for name, value in state.items())
    found = Fitting.read(folder / "fitting.pt").network
    if told:
        found.load_state_dict(told[0][0])
    return found, told[0][1] if told else []


def alone(given: Fitting) -> Told:
    history = given.train()
    return given.network, [epoch.validation_loss for epoch in history]


def digest(found: Told) -> str:
    return weights_digest(found[0])


def alike(one: Told, other: Told) -> None:
    for a, b in zip(one[0].state_dict().values(), other[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert one[1] == pytest.approx(other[1], abs=1e-5)


OBJECTIVES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "plain": ((), {}),
    "weighed": (("weights",), {"class_weights": torch.tensor([0.4, 3.0])}),
    "fair": (("groups",), {"penalty": Penalty("equalized_odds", 0.7, 2)}),
    "both": (("groups", "weights"), {"penalty": Penalty("demographic_parity", 2.0, 2)}),
}


@pytest.mark.parametrize(
    ("kind", "objective", "size"),
    [
        *((kind, "plain", 2) for kind in NETWORKS),
        *(("mlp", objective, 3) for objective in OBJECTIVES),
        ("tabm", "both", 2),
    ],
)
def test_workers_add_up_to_one(kind: str, objective: str, size: int, tmp_path: Path) -> None:
    """Also where shares differ in what their rows weigh, have no row of a group, or no row."""
    columns, goal = OBJECTIVES[objective]
    alike(together(fitting(kind, *columns, **goal), size, tmp_path), alone(fitting(kind, *columns, **goal)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_worker_without_a_validation_row_has_no_answers(kind: str) -> None:
    given = fitting(kind)
    assert given.network.predict(given.validation.features.between(3, 3)).shape == (0, 1)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [*((kind, "plain") for kind in NETWORKS), *(("mlp", objective) for objective in OBJECTIVES)],
)
def test_batches_add_up_to_a_large_one(kind: str, objective: str) -> None:
    """Dropout included, and a step whose last batch is shorter."""
    columns, goal = OBJECTIVES[objective]
    plan = PLANS.get(kind, PLAN)
    parts = plan.model_copy(update={"batch_size": 5, "gradient_accumulation": 4})
    large = plan.model_copy(update={"batch_size": 20})
    several, one = (alone(fitting(kind, *columns, plan=each, **goal)) for each in (parts, large))
    alike(several, one)


def test_workers_add_up_batches(tmp_path: Path) -> None:
    """Of 12 rows a step, in batches of 4, one worker has two and the other two: with 193 rows the last
    step has one row.
    """
    columns, goal = OBJECTIVES["both"]
    plan = PLAN.model_copy(update={"batch_size": 4, "gradient_accumulation": 3})
    given = [fitting("mlp", *columns, plan=plan, **goal) for _ in range(2)]
    alike(together(given[0], 2, tmp_path), alone(given[1]))


def test_a_text_is_read_by_workers_as_by_one(tmp_path: Path) -> None:
    alike(together(of_texts(), 2, tmp_path), alone(of_texts()))


def test_the_same_number_of_workers_gives_the_same_bits_killed_or_not(tmp_path: Path) -> None:
    """And from another number's checkpoint the same weights to rounding."""
    whole = together(fitting(), 2, tmp_path / "whole")
    killed = tmp_path / "killed"
    together(fitting(), 2, killed, kill_after=2)
    assert (killed / "checkpoint.pt").exists()
    shutil.copytree(killed, tmp_path / "fewer")
    assert digest(together(fitting(), 2, killed)) == digest(whole)
    alike(together(fitting(), 3, tmp_path / "fewer"), whole)


def test_early_stopping_is_decided_once(tmp_path: Path) -> None:
    plan = Trainer(
        epochs=30,
        batch_size=16,
        optimizer=Sgd(type="sgd", learning_rate=0.5),
        early_stopping=EarlyStopping(patience=2),
    )
    several, one = together(fitting(plan=plan), 2, tmp_path), alone(fitting(plan=plan))
    assert len(one[1]) < 30
    alike(several, one)


def test_rows_that_find_no_room_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "fitting.new").symlink_to("/dev/full")
    with pytest.raises(Unavailable, match="the disk is full"):
        fitting().write(tmp_path / "fitting.pt")
    assert [*tmp_path.iterdir()] == []


def test_a_worker_without_others_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(PeerLost),
        joined(by_file(tmp_path / "store", 2), 0, 2, timedelta(seconds=0.2)),
    ):
        pass
