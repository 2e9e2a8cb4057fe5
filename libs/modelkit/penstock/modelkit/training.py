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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import Trainer
from penstock.modelkit.fairness import Penalty
from penstock.modelkit.family import Epoch, kept, write_whole
from penstock.modelkit.intervals import Quantiles
from penstock.modelkit.metrics import of_epoch
from penstock.modelkit.network import Tensors, Trainable
from penstock.modelkit.optimizers import optimizer_of
from penstock.modelkit.schedules import Moment, learning_rate

LEAST = 1e-12  # weight of a batch whose rows all have none


@dataclass(frozen=True, slots=True)
class Split:
    """One part, ready for the network. Labels: int64 class indices, or float32 standardised values,
    [N]. Groups: int64 [N], only with a penalty. Weights: float32 [N], where rows have some.
    """

    features: Tensors
    labels: Tensor
    groups: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss to minimise. `spread`: one standard deviation of a regression's target, in its unit.
    `quantiles`: those that a regression's second and third output are fitted to.
    """

    task: Task
    class_weights: Tensor | None = None  # float32 [k]
    penalty: Penalty | None = None
    spread: float = 1.0
    quantiles: Quantiles | None = None

    def loss(
        self, logits: Tensor, labels: Tensor, groups: Tensor | None, weights: Tensor | None = None
    ) -> Tensor:
        """The mean over rows, each weighed by its own weight and its class's; plus the penalty, which
        compares groups as they are.
        """
        rows = self.of_rows(logits, labels)
        if self.class_weights is not None:
            of_class = self.class_weights[labels]
            weights = of_class if weights is None else weights * of_class
        loss = rows.mean() if weights is None else (rows * weights).sum() / weights.sum().clamp_min(LEAST)
        if self.penalty is not None and groups is not None:
            loss = loss + self.penalty(torch.sigmoid(logits[:, 0]), labels, groups)
        return loss

    def of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row, [B]."""
        if self.task == "regression":
            rows = functional.mse_loss(logits[:, 0], labels, reduction="none")
            if self.quantiles:
                away = labels[:, None] - logits[:, 1:]
                shares = torch.tensor(self.quantiles)
                rows = rows + torch.maximum(shares * away, (shares - 1) * away).sum(dim=1)
            return rows
        if self.task == "multiclass":
            return functional.cross_entropy(logits, labels, reduction="none")
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), reduction="none"
        )

    def measured(self, logits: Tensor, labels: Tensor) -> tuple[str, float]:
        """Name and value of the training curve's measure."""
        return of_epoch(self.task, labels.numpy() * self.spread, logits.numpy() * self.spread)


def seed_everything(seed: int) -> None:
    """The weights' and the dropout's seed. One thread on a CPU is deterministic as it is; to ask
    torch for it loads its compiler (2 s).
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)


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
) -> tuple[Epoch, ...]:
    """Trains `network` in place and leaves the best epoch's weights in it (by validation loss;
    without early stopping, the last epoch's).

    With `checkpoint`, goes on from that file if it is there; `on_epoch` hears of every epoch, those
    of before first. Call `seed_everything` before the network is made. Raises Invalid when the loss
    stops being a number, Conflict when the checkpoint is of another run.
    """
    loop = _Loop(network, objective, training, validation, plan, seed)
    if checkpoint is not None and checkpoint.exists():
        loop.restore(checkpoint)
        for epoch in loop.history:
            on_epoch(epoch)
    while not loop.ended():
        loop.epoch()
        if checkpoint is not None:
            loop.save(checkpoint)
        on_epoch(loop.history[-1])
    if loop.best is not None:
        network.load_state_dict(loop.best)
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
    ) -> None:
        self._network, self._objective = network, objective
        self._training, self._validation, self._plan = training, validation, plan
        self._identity = _identity(network, training, validation, plan, seed)
        spared = {id(parameter) for parameter in network.undecayed()}
        decays = [id(parameter) not in spared for parameter in network.parameters()]
        self._optimizer = optimizer_of(network.parameters(), plan.optimizer, decays)
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
        train_loss, rate = self._pass()
        logits = self._network.predict(self._validation.features)
        labels, groups, weights = (
            self._validation.labels,
            self._validation.groups,
            self._validation.weights,
        )
        validation_loss = self._objective.loss(logits, labels, groups, weights).item()
        number = len(self.history) + 1
        if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
            raise Invalid(
                f"the loss is no number any more in epoch {number}",
                where="trainer.optimizer.learning_rate",
                remedy="Lower the learning rate, or set trainer.gradient_clip to 1",
            )
        metric, value = self._objective.measured(logits, labels)
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
            )
        )
        if self._plan.early_stopping and kept(self.history, self._plan.early_stopping)[0] == number - 1:
            self.best = copy.deepcopy(self._network.state_dict())

    def _pass(self) -> tuple[float, float]:
        """Trains once over the training split. The mean loss, and the learning rate at the end."""
        network, training, plan, optimizer = self._network, self._training, self._plan, self._optimizer
        count = len(training.labels)
        shuffled = torch.split(torch.randperm(count, generator=self._order), plan.batch_size)
        total = rate = 0.0
        losses = [epoch.validation_loss for epoch in self.history]
        network.train()
        for step, rows in enumerate(shuffled, len(shuffled) * len(self.history)):
            network.zero_grad()
            logits = network(*training.features.batch(rows))
            told = rows.repeat_interleave(network.members)
            groups = training.groups[told] if training.groups is not None else None
            weights = training.weights[told] if training.weights is not None else None
            loss = self._objective.loss(logits, training.labels[told], groups, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            if plan.gradient_clip is not None:
                optimizer.clip(plan.gradient_clip)
            moment = Moment(step, len(shuffled) * plan.epochs, len(shuffled), losses)
            rate = learning_rate(plan.schedule, plan.optimizer.learning_rate, moment)
            optimizer.step(rate)
            total += loss.item() * len(rows)
        network.average_unseen()
        return total / count, rate

    def save(self, path: Path) -> None:
        content = io.BytesIO()
        state = {
            "identity": self._identity,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state(),
            "order": self._order.get_state(),
            "random": torch.get_rng_state(),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
        }
        torch.save(state, content)
        write_whole(path, content.getvalue())

    def restore(self, path: Path) -> None:
        """Raises Conflict when the checkpoint is of another run."""
        state = torch.load(path, weights_only=True)
        if state["identity"] != self._identity:
            raise Conflict("the checkpoint belongs to another run", where=str(path), remedy="Start a new run")
        self._network.load_state_dict(state["network"])
        self._optimizer.restore(state["optimizer"])
        self._order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best = state["best"]
        self._began -= self.history[-1].elapsed_s


def weights_digest(network: Trainable) -> str:
    """`sha256:…` over all weights in order: two runs that agree on it agree on every bit."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _identity(network: Trainable, training: Split, validation: Split, plan: Trainer, seed: int) -> str:
    """Digest that a checkpoint must agree on to be gone on from: the plan, the seed, the network as it
    starts, the data.
    """
    digest = hashlib.sha256(f"{plan.model_dump_json()} {seed} {weights_digest(network)}".encode())
    for part in (training, validation):
        for tensor in (*part.features.contents(), part.labels, part.groups, part.weights):
            if tensor is not None:
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
