"""The boosting loop: rounds of LightGBM in epochs, early stopping, a checkpoint after every epoch.

A run that is killed and goes on from its checkpoint gives the same trees, bit for bit, as one that
was not: one thread, no sampling of rows or columns, and the model's text has all digits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from lightgbm.callback import CallbackEnv, EarlyStopException

from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import EarlyStopping
from penstock.modelkit.family import Epoch, kept, write_whole
from penstock.modelkit.graph import Array
from penstock.modelkit.metrics import of_epoch
from penstock.modelkit.tree_rows import Dataset, TreeRows

SMALLEST = float(np.finfo(np.float64).eps)  # what a probability of 0 counts in the log loss
LARGEST = 64_000_000  # characters of a model, about as many bytes of its graph
FIXED = {"metric": "None", "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1}


class Split(NamedTuple):
    """A part, ready for LightGBM. Labels: class indices, or standardised values, [N]."""

    matrix: Array | TreeRows  # float64 [N, columns]
    labels: Array
    weights: Array | None = None  # float64 [N]


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of one training. `spread`: one standard deviation of a regression's target."""

    task: Task
    parameters: Mapping[str, Any]  # LightGBM's
    categories: tuple[int, ...]  # columns that hold buckets
    rounds: int  # of an epoch
    epochs: int
    stopping: EarlyStopping | None
    spread: float = 1.0
    quantile: float | None = None  # that a regression is fitted to, instead of the mean


def boost(
    plan: Plan,
    training: Split,
    validation: Split,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[str, tuple[Epoch, ...]]:
    """Returns the best epoch's model as LightGBM's text (by validation loss; without early stopping
    the last epoch's), and all epochs.

    With `checkpoint`, goes on from that file if it is there; `on_epoch` hears of every epoch, those
    of before first. Raises Conflict when the checkpoint is of another run; Invalid when the model
    grows beyond what can be served.
    """
    loop = _Loop(plan, training, validation, checkpoint, on_epoch)
    if checkpoint is not None and checkpoint.exists():
        loop.restore(checkpoint)
    if not loop.ended():
        loop.run()
    best, _ = kept(loop.history, plan.stopping)
    assert loop.model is not None
    return loop.model.model_to_string(num_iteration=(best + 1) * plan.rounds), tuple(loop.history)


class _Loop:
    """A run between two epochs: `model` and `history`, which a checkpoint holds, and what stays."""

    def __init__(
        self,
        plan: Plan,
        training: Split,
        validation: Split,
        checkpoint: Path | None,
        on_epoch: Callable[[Epoch], None],
    ) -> None:
        self._plan, self._training, self._validation = plan, training, validation
        self._checkpoint, self._on_epoch = checkpoint, on_epoch
        self._identity = _identity(plan, training, validation)
        self._began = self._told = time.monotonic()
        self._rounds = self._size = 0  # of the model after the last epoch; characters of its trees
        self.model: lightgbm.Booster | None = None
        self.history: list[Epoch] = []

    def ended(self) -> bool:
        plan, history = self._plan, self.history
        stuck = self._rounds < len(history) * plan.rounds
        return stuck or len(history) >= plan.epochs or kept(history, plan.stopping)[1]

    def run(self) -> None:
        """Trains to the end."""
        plan = self._plan
        rows = self._rows(self._training)
        self.model = lightgbm.train(
            {**plan.parameters, **FIXED},
            rows,
            num_boost_round=plan.epochs * plan.rounds - self._rounds,
            valid_sets=[self._rows(self._validation, rows)],
            init_model=self.model,
            keep_training_booster=True,
            callbacks=[lambda env: self._after_round(env)],
        )

    def _rows(self, split: Split, reference: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
        return Dataset(
            split.matrix,
            split.labels,
            reference=reference,
            weight=split.weights,
            categorical_feature=list(self._plan.categories),
            free_raw_data=False,
        )

    def _after_round(self, env: CallbackEnv) -> None:
        """Ends an epoch after its last round, and training where no split lowers the loss any more."""
        booster = env.model
        assert isinstance(booster, lightgbm.Booster)
        rounds, before = booster.current_iteration(), len(self.history) * self._plan.rounds
        stuck = rounds <= env.iteration
        if rounds - before == self._plan.rounds or (stuck and rounds > before):
            self._end_epoch(booster)
        if stuck or self.ended():
            raise EarlyStopException(0, [])

    def _end_epoch(self, booster: lightgbm.Booster) -> None:
        plan, validation = self._plan, self._validation
        learned, seen = _answers(booster)
        outputs = seen.reshape(len(validation.labels), -1)
        metric, value = of_epoch(plan.task, validation.labels * plan.spread, outputs * plan.spread)
        before, self._told = self._told, time.monotonic()
        self.history.append(
            Epoch(
                number=len(self.history) + 1,
                epochs=plan.epochs,
                train_loss=_loss(plan, self._training, learned),
                validation_loss=_loss(plan, validation, seen),
                validation_metric=value,
                metric=metric,
                learning_rate=plan.parameters["learning_rate"],
                elapsed_s=self._told - self._began,
                rows=len(self._training.labels),
                took_s=self._told - before,
                step_s=(self._told - before) / plan.rounds,
            )
        )
        self._grow(booster)
        if self._size > LARGEST:
            raise Invalid(
                f"after {len(self.history)} epochs the trees are a model of {self._size / 1e6:.0f} MB",
                where="trainer.epochs",
                remedy="Lower it, model.rounds_per_epoch or model.num_leaves, or leave early stopping on",
            )
        if self._checkpoint is not None:
            self._save(self._checkpoint, booster)
        self._on_epoch(self.history[-1])

    def _grow(self, model: lightgbm.Booster) -> None:
        """Counts what came since the last epoch, and that alone: with all of the model each time a long
        training would spend most of its time on writing.
        """
        before, self._rounds = self._rounds, model.current_iteration()
        if self._rounds > before:
            text = model.model_to_string(start_iteration=before, num_iteration=self._rounds - before)
            self._size += text.find("\nend of trees") - text.find("\nTree=")

    def _save(self, path: Path, model: lightgbm.Booster) -> None:
        history = [asdict(epoch) for epoch in self.history]
        text = model.model_to_string(num_iteration=-1)
        content = {"identity": self._identity, "history": history, "model": text}
        write_whole(path, json.dumps(content).encode())

    def restore(self, path: Path) -> None:
        """Tells of the epochs of before. Raises Conflict when the checkpoint is of another run."""
        content = json.loads(path.read_bytes())
        if content["identity"] != self._identity:
            raise Conflict("the checkpoint belongs to another run", where=str(path), remedy="Start a new run")
        self.model = lightgbm.Booster(model_str=content["model"])
        self._grow(self.model)
        self.history = [Epoch(**epoch) for epoch in content["history"]]
        self._began -= self.history[-1].elapsed_s
        for epoch in self.history:
            self._on_epoch(epoch)


def _answers(booster: lightgbm.Booster) -> tuple[Array, Array]:
    """Answers for both parts, as the rounds so far have added them up: probabilities of the second of
    two classes [N], of each of several [N, k], or standardised values [N].
    """
    found: list[Array] = []

    def look(answers: Array, _rows: lightgbm.Dataset) -> tuple[str, float, bool]:
        found.append(answers.copy())
        return "", 0.0, False

    booster.eval_train(look)
    booster.eval_valid(look)
    learned, seen = found
    return learned, seen


def _loss(plan: Plan, split: Split, answers: Array) -> float:
    """Log loss, or squared error or quantile loss of standardised values."""
    labels = split.labels
    if plan.quantile is not None:
        rows = np.maximum(plan.quantile * (labels - answers), (plan.quantile - 1) * (labels - answers))
    elif plan.task == "regression":
        rows = (answers - labels) ** 2
    else:
        chosen = np.where(labels == 1, answers, 1 - answers) if answers.ndim == 1 else None
        truth = answers[np.arange(len(labels)), labels] if chosen is None else chosen
        rows = -np.log(np.clip(truth, SMALLEST, 1.0))
    return float(np.average(rows, weights=split.weights))


def _identity(plan: Plan, *parts: Split) -> str:
    """Digest that a checkpoint must agree on to be gone on from: the plan, the data."""
    stopping = plan.stopping.model_dump() if plan.stopping else None
    told = [
        plan.task,
        dict(plan.parameters),
        plan.categories,
        plan.rounds,
        plan.epochs,
        stopping,
        plan.spread,
        *([plan.quantile] if plan.quantile is not None else []),
    ]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for part in parts:
        for values in part:
            for chunk in values.chunks() if isinstance(values, TreeRows) else (values,):
                if chunk is not None:
                    digest.update(np.ascontiguousarray(chunk).reshape(-1).data)
    return digest.hexdigest()
