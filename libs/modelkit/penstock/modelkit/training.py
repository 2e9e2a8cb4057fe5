"""The training loop: batches from memory, schedule, early stopping, a checkpoint after every epoch.

A run that is killed and goes on from its checkpoint gives the same weights, bit for bit, as one
that was not: the checkpoint holds weights, optimizer, both random generators, the best epoch so far
and the history. One thread: a sum is always taken in the same order.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Schedule, Trainer
from penstock.modelkit.fairness import Penalty
from penstock.modelkit.metrics import of_epoch
from penstock.modelkit.network import Network, Tensors
from penstock.modelkit.optimizer import Optimizer


@dataclass(frozen=True, slots=True)
class Split:
    """One part, ready for the network."""

    features: Tensors
    labels: Tensor
    """int64 class indices, or float32 standardised values; [N]."""
    groups: Tensor | None = None
    """int64 [N]; only with a penalty."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Epoch:
    number: int
    """From 1."""
    epochs: int
    """Planned."""
    train_loss: float
    """Mean over the epoch's batches, with penalty and class weights."""
    validation_loss: float
    """The same loss, without dropout."""
    validation_metric: float
    metric: str
    learning_rate: float
    """At the epoch's end."""
    elapsed_s: float
    """Since the run's first epoch began, pauses between a kill and the resumption left out."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised."""

    task: Task
    class_weights: Tensor | None = None
    """float32 [k]."""
    penalty: Penalty | None = None

    def loss(self, logits: Tensor, labels: Tensor, groups: Tensor | None) -> Tensor:
        if self.task == "regression":
            return functional.mse_loss(logits[:, 0], labels)
        if self.task == "multiclass":
            return functional.cross_entropy(logits, labels, weight=self.class_weights)
        rows = functional.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), reduction="none"
        )
        if self.class_weights is not None:
            weights = self.class_weights[labels]
            loss = (rows * weights).sum() / weights.sum()
        else:
            loss = rows.mean()
        if self.penalty is not None and groups is not None:
            loss = loss + self.penalty(torch.sigmoid(logits[:, 0]), labels, groups)
        return loss

    def metric(self, logits: Tensor, labels: Tensor, spread: float) -> tuple[str, float]:
        """Name and value of what the curve shows beside the loss. `spread`: one standard deviation of a
        regression's target, in its unit.
        """
        unit = spread if self.task == "regression" else 1
        return of_epoch(self.task, labels.numpy() * unit, logits.numpy() * unit)


def learning_rate(schedule: Schedule, base: float, step: int, steps: int) -> float:
    """Of step `step` (from 0) of `steps`: a linear rise over the warm-up, then as the schedule
    says, to 0 at the end.
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return base * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    match schedule.type:
        case "constant":
            return base
        case "linear":
            return base * (1 - share)
        case "cosine":
            return base * 0.5 * (1 + math.cos(math.pi * share))


def seed_everything(seed: int) -> None:
    """The weights' and the dropout's seed. One thread on a CPU is deterministic as it is; to ask
    torch for it loads its compiler (2 s).
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)


def train(
    network: Network,
    objective: Objective,
    training: Split,
    validation: Split,
    plan: Trainer,
    *,
    seed: int,
    spread: float = 1.0,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Epoch, ...]:
    """Trains `network` in place and leaves the best epoch's weights in it (by validation loss;
    without early stopping, the last epoch's).

    With `checkpoint`, goes on from that file if it is there; `on_epoch` hears of every epoch, those
    of before first. Call `seed_everything` before the network is made. Raises Invalid when the loss
    stops being a number, Conflict when the checkpoint is of another run.
    """
    optimizer = Optimizer(network.parameters(), plan.optimizer)
    order = torch.Generator().manual_seed(seed)
    state = _State()
    identity = _identity(network, training, validation, plan, seed)
    if checkpoint is not None and checkpoint.exists():
        state = _restore(checkpoint, identity, network, optimizer, order)
        for epoch in state.history:
            on_epoch(epoch)
    batches = math.ceil(len(training) / plan.batch_size)
    steps = batches * plan.epochs
    began = clock() - (state.history[-1].elapsed_s if state.history else 0.0)
    while len(state.history) < plan.epochs and not state.stopped:
        step = batches * len(state.history)
        total = 0.0
        rate = 0.0
        network.train()
        for rows in torch.split(torch.randperm(len(training), generator=order), plan.batch_size):
            optimizer.clear()
            groups = training.groups[rows] if training.groups is not None else None
            loss = objective.loss(network(*training.features.batch(rows)), training.labels[rows], groups)
            loss.backward()  # type: ignore[no-untyped-call]
            if plan.gradient_clip is not None:
                optimizer.clip(plan.gradient_clip)
            rate = learning_rate(plan.schedule, plan.optimizer.learning_rate, step, steps)
            optimizer.step(rate)
            total += loss.item() * len(rows)
            step += 1
        network.average_unseen()
        logits = network.predict(validation.features)
        validation_loss = objective.loss(logits, validation.labels, validation.groups).item()
        if not (math.isfinite(total) and math.isfinite(validation_loss)):
            raise Invalid(
                f"the loss is no number any more in epoch {len(state.history) + 1}",
                where="trainer.optimizer.learning_rate",
                remedy="Lower the learning rate, or set trainer.gradient_clip to 1",
            )
        metric, value = objective.metric(logits, validation.labels, spread)
        epoch = Epoch(
            number=len(state.history) + 1,
            epochs=plan.epochs,
            train_loss=total / len(training),
            validation_loss=validation_loss,
            validation_metric=value,
            metric=metric,
            learning_rate=rate,
            elapsed_s=clock() - began,
        )
        state.add(epoch, network, plan)
        if checkpoint is not None:
            _save(checkpoint, identity, state, network, optimizer, order)
        on_epoch(epoch)
    if state.best is not None:
        network.load_state_dict(state.best)
    network.eval()
    return tuple(state.history)


class _State:
    """What the loop knows besides weights and generators."""

    def __init__(self) -> None:
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None
        self.best_loss = math.inf
        self.waited = 0
        self.stopped = False

    def add(self, epoch: Epoch, network: Network, plan: Trainer) -> None:
        self.history.append(epoch)
        if plan.early_stopping is None:
            return
        if epoch.validation_loss < self.best_loss - plan.early_stopping.min_delta or self.best is None:
            self.best, self.best_loss, self.waited = (
                copy.deepcopy(network.state_dict()),
                epoch.validation_loss,
                0,
            )
        else:
            self.waited += 1
            self.stopped = self.waited >= plan.early_stopping.patience


def weights_digest(network: Network) -> str:
    """`sha256:…` over all weights in order: two runs that agree on it agree on every bit."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _identity(network: Network, training: Split, validation: Split, plan: Trainer, seed: int) -> str:
    """What a checkpoint must agree on to be gone on from: the plan, the seed, the network as it
    starts, the data.
    """
    digest = hashlib.sha256(f"{plan.model_dump_json()} {seed} {weights_digest(network)}".encode())
    for part in (training, validation):
        for tensor in (part.features.dense, part.features.buckets, part.labels, part.groups):
            if tensor is not None:
                digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def _save(
    path: Path, identity: str, state: _State, network: Network, optimizer: Optimizer, order: torch.Generator
) -> None:
    content: dict[str, Any] = {
        "identity": identity,
        "network": network.state_dict(),
        "optimizer": optimizer.state(),
        "order": order.get_state(),
        "random": torch.get_rng_state(),
        "history": [asdict(epoch) for epoch in state.history],
        "best": state.best,
        "best_loss": state.best_loss,
        "waited": state.waited,
        "stopped": state.stopped,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _restore(
    path: Path, identity: str, network: Network, optimizer: Optimizer, order: torch.Generator
) -> _State:
    content = torch.load(path, weights_only=True)
    if content["identity"] != identity:
        raise Conflict("the checkpoint belongs to another run", where=str(path), remedy="Start a new run")
    network.load_state_dict(content["network"])
    optimizer.restore(content["optimizer"])
    order.set_state(content["order"])
    torch.set_rng_state(content["random"])
    state = _State()
    state.history = [Epoch(**epoch) for epoch in content["history"]]
    state.best, state.best_loss = content["best"], content["best_loss"]
    state.waited, state.stopped = content["waited"], content["stopped"]
    return state
