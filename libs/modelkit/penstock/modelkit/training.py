"""The training loop: batches from memory, schedule, early stopping, a checkpoint after every epoch.

A run that is killed and goes on from its checkpoint gives the same weights, bit for bit, as one
that was not: the checkpoint holds weights, optimizer, both random generators, the best epoch so far
and the history. One thread: a sum is always taken in the same order.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.pipeline import Trainer
from penstock.modelkit.data_parallel import ProcessGroup, gradients_of
from penstock.modelkit.device import CPU, Device, random_state, restore_random_state
from penstock.modelkit.device_use import DeviceUse
from penstock.modelkit.family import Epoch, kept, write_whole
from penstock.modelkit.gradients import Gradients, Waits
from penstock.modelkit.network import Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.order import Batch, Windows
from penstock.modelkit.schedules import Moment, learning_rate


def seed_everything(seed: int) -> None:
    """The weights' and the dropout's seed. One thread on a CPU is deterministic as it is; to ask
    torch for it loads its compiler (2 s).
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)


class Loop(Protocol):
    """`train`, or what leads to the same by other means: by several processes, say."""

    def __call__(
        self,
        network: Trainable,
        objective: Objective,
        training: Split,
        validation: Split,
        plan: Trainer,
        *,
        seed: int,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> tuple[Epoch, ...]: ...


def train(
    network: Trainable,
    objective: Objective,
    training: Split,
    validation: Split,
    plan: Trainer,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    group: ProcessGroup | None = None,
    device: Device = CPU,
) -> tuple[Epoch, ...]:
    """Trains `network` in place and leaves the best epoch's weights in it (by validation loss;
    without early stopping, the last epoch's).

    With `checkpoint`, goes on from that file if it is there; `on_epoch` hears of every epoch, those
    of before first. Call `seed_everything` before the network is made. Raises Invalid when the loss
    stops being a number, Conflict when the checkpoint is of another run.

    `group`: the workers that train together, of which this process is one; each is called with the
    same arguments and random state, and worker 0 alone writes the checkpoint and tells of epochs.
    `device`: the kind of processor to train on; the network is back on the CPU afterwards.
    """
    identity = _identity(network, training, validation, plan, seed)
    with device.ready(0 if group is None else group.rank) as place:
        network.to(place)
        objective, training, validation = objective.at(place), training.at(place), validation.at(place)
        gradients = gradients_of(network, objective, training, plan, group, device)
        loop = _Loop(network, objective, training, validation, plan, seed, gradients, identity)
        if checkpoint is not None and checkpoint.exists():
            loop.restore(checkpoint)
            for epoch in loop.history if gradients.leads else ():
                on_epoch(epoch)
        while not loop.ended():
            loop.epoch()
            if gradients.leads:
                if checkpoint is not None:
                    loop.save(checkpoint)
                on_epoch(loop.history[-1])
        if loop.best is not None:
            network.load_state_dict(loop.best)
        network.to("cpu")
    return tuple(loop.history)


class _Loop:
    """A run between two epochs: all that a checkpoint holds, and what stays the same."""

    def __init__(
        self,
        network: Trainable,
        objective: Objective,
        training: Split,
        validation: Split,
        plan: Trainer,
        seed: int,
        gradients: Gradients,
        identity: str,
    ) -> None:
        self._network, self._objective, self._gradients = network, objective, gradients
        self._training, self._validation, self._plan = training, validation, plan
        self._identity, self._place = identity, training.labels.device
        self._use = DeviceUse(self._place)
        spared = {id(parameter) for parameter in network.undecayed()}
        decays = [id(parameter) not in spared for parameter in network.parameters()]
        self._optimizer = optimizer_of(network.parameters(), plan.optimizer, decays)
        self._windows = Windows.of(training.features)
        self._order = torch.Generator().manual_seed(seed)
        self._began = time.monotonic()
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] | None = None

    def ended(self) -> bool:
        _, stopped = kept(self.history, self._plan.early_stopping)
        return stopped or len(self.history) >= self._plan.epochs

    def epoch(self) -> None:
        """Trains for one epoch more and adds it to the history. Raises Invalid when the loss stops
        being a number.
        """
        began, self._gradients.waits = time.perf_counter(), Waits()
        trained, rate = self._pass()
        passed = time.perf_counter() - began
        validation = self._validation
        logits = self._gradients.answers(validation.features)
        found = self._objective.loss(logits, validation.labels, validation.groups, validation.weights)
        figures = torch.tensor([trained, found.item()], dtype=torch.float64)
        train_loss, validation_loss = self._gradients.agreed(figures).tolist()
        number = len(self.history) + 1
        if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
            raise Invalid(
                f"the loss is no number any more in epoch {number}",
                where="trainer.optimizer.learning_rate",
                remedy="Lower the learning rate, or set trainer.gradient_clip to 1",
            )
        metric, value = self._objective.measured(logits, validation.labels)
        used = self._use.taken()
        self.history.append(
            Epoch(
                number=number,
                epochs=self._plan.epochs,
                train_loss=train_loss,
                validation_loss=validation_loss,
                validation_metric=value,
                metric=metric,
                learning_rate=rate,
                elapsed_s=time.monotonic() - self._began,
                rows=len(self._training.labels),
                took_s=time.perf_counter() - began,
                data_s=self._gradients.waits.data,
                communication_s=self._gradients.waits.communication,
                step_s=passed / math.ceil(len(self._training.labels) / self._plan.step_rows),
                workers=self._gradients.workers,
                gpu_s=used.seconds,
                gpu_bytes=used.most,
            )
        )
        if self._plan.early_stopping and kept(self.history, self._plan.early_stopping)[0] == number - 1:
            self.best = copy.deepcopy(self._network.state_dict())

    def _pass(self) -> tuple[float, float]:
        """Trains once over the training split. The mean loss, and the learning rate at the end."""
        plan, optimizer = self._plan, self._optimizer
        count = len(self._training.labels)
        features, batches = self._training.features, math.ceil(count / plan.step_rows)
        order = self._windows.order(self._order).to(features.dense.device)
        rate = 0.0
        # One tensor: small ones that stay keep what was freed between them from being used again.
        told = torch.empty(batches, dtype=torch.float64, device=self._place)
        losses = [epoch.validation_loss for epoch in self.history]
        self._network.train()
        ahead = _waited(self._windows.read_ahead(order, plan.step_rows, features), self._gradients.waits)
        for number, batch in enumerate(ahead):
            moment = Moment(batches * len(self.history) + number, batches * plan.epochs, batches, losses)
            rate = learning_rate(plan.schedule, plan.optimizer.learning_rate, moment)
            with self._use.step():
                told[number] = self._gradients.of(batch)
                if plan.gradient_clip is not None:
                    optimizer.clip(plan.gradient_clip)
                optimizer.step(rate)
        self._network.average_unseen()
        # Read at the end: a GPU is not waited for at each step.
        parts = torch.split(order, plan.step_rows)
        total = sum(loss * len(rows) for loss, rows in zip(told.tolist(), parts, strict=True))
        return total / count, rate

    def save(self, path: Path) -> None:
        content = io.BytesIO()
        state = {
            "identity": self._identity,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state(),
            "order": self._order.get_state(),
            **random_state(self._place),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
        }
        torch.save(state, content)
        write_whole(path, content.getvalue())

    def restore(self, path: Path) -> None:
        """Raises Conflict when the checkpoint is of another run."""
        state = torch.load(path, map_location=self._place, weights_only=True)
        if state["identity"] != self._identity:
            raise Conflict("the checkpoint belongs to another run", where=str(path), remedy="Start a new run")
        self._network.load_state_dict(state["network"])
        self._optimizer.restore(state["optimizer"])
        self._order.set_state(state["order"].cpu())
        restore_random_state(self._place, state)
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best = state["best"]
        self._began -= self.history[-1].elapsed_s


def _waited(batches: Iterator[Batch], waits: Waits) -> Iterator[Batch]:
    """The batches; the time until each is there is one of waiting for data."""
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        waits.data += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def weights_digest(network: Trainable) -> str:
    """`sha256:…` over all weights in order: two runs that agree on it agree on every bit."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _identity(network: Trainable, training: Split, validation: Split, plan: Trainer, seed: int) -> str:
    """Digest that a checkpoint must agree on to be gone on from: the plan, the seed, the network as it
    starts, the data.
    """
    digest = hashlib.sha256(f"{plan.model_dump_json()} {seed} {weights_digest(network)}".encode())
    for part in (training, validation):
        for tensor in (*part.features.contents(), part.labels, part.groups, part.weights):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().reshape(-1).data)  # a copy may not fit
    return digest.hexdigest()
