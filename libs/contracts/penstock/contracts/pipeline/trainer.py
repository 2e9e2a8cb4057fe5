"""`trainer`: how a model is fitted. An optimizer or a schedule is a class, and its place in its union."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from penstock.contracts.pipeline.base import FieldName, Model
from penstock.contracts.pipeline.variants import OneOf, Unused

Momentum = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(Model):
    type: str
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    """The schedule's highest. 1e-3 suits tables; where the curve jumps, with deep networks or with
    texts, go down from 1e-4 and keep a warm-up. SGD wants ten to a hundred times as much.
    """
    weight_decay: float = Field(default=1e-4, ge=0)
    """Draws all weights towards 0; more of it for few rows."""


class _Adaptive(_Optimizer):
    beta1: float = Field(default=0.9, ge=0, lt=1, exclude_if=lambda said: said == 0.9)
    """Share of the mean gradient that a step keeps."""
    beta2: float = Field(default=0.999, ge=0, lt=1, exclude_if=lambda said: said == 0.999)
    """Share of the mean squared gradient that a step keeps."""


class Adamw(_Adaptive):
    """Adam with weight decay beside the gradient (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    momentum: Unused[Momentum] = 0.9


class Adam(_Adaptive):
    """Adam, weight decay as part of the gradient (Kingma and Ba 2015)."""

    type: Literal["adam"]
    momentum: Unused[Momentum] = 0.9


class Sgd(_Optimizer):
    """Stochastic gradient descent."""

    type: Literal["sgd"]
    momentum: Momentum = 0.9
    """Share of the last step that is taken again."""
    nesterov: bool = Field(default=False, exclude_if=lambda said: not said)
    """Looks ahead by the momentum (Nesterov 1983, as in torch)."""


Optimizer = Annotated[Adamw | Adam | Sgd, OneOf()]
"""`penstock.modelkit.optimizers` has a file for each, named by its type."""


class _Schedule(Model):
    type: str
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps spent rising from 0 to where the schedule begins, in a straight line."""


class CosineSchedule(_Schedule):
    """Falls to 0 along half a cosine."""

    type: Literal["cosine"] = "cosine"


class ConstantSchedule(_Schedule):
    """Stays at the learning rate."""

    type: Literal["constant"]


class LinearSchedule(_Schedule):
    """Falls to 0 in a straight line."""

    type: Literal["linear"]


class StepSchedule(_Schedule):
    """Falls to `gamma` of itself every `step_size` epochs."""

    type: Literal["step"]
    step_size: int = Field(default=10, ge=1)
    """Epochs from one fall to the next, the first counted from the end of the warm-up."""
    gamma: float = Field(default=0.1, gt=0, le=1)


class OneCycleSchedule(_Schedule):
    """Rises to the learning rate and falls to almost 0, each along half a cosine (Smith and Topin
    2017). Its rise is a warm-up, so that another one is off by default.
    """

    type: Literal["one_cycle"]
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps spent rising from 0 to where the cycle begins, in a straight line."""
    pct_start: float = Field(default=0.3, gt=0, lt=1)
    """Share of the cycle spent rising."""
    div_factor: float = Field(default=25.0, ge=1)
    """The cycle begins with the learning rate divided by this."""
    final_div_factor: float = Field(default=1e4, ge=1)
    """It ends with its first rate divided by this."""


class PlateauSchedule(_Schedule):
    """Falls to `factor` of itself when the validation loss has stopped falling."""

    type: Literal["reduce_on_plateau"]
    factor: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=2, ge=0)
    """Epochs without a better validation loss that are let pass; the next one lowers the rate. Early
    stopping must have more patience, or training ends before.
    """
    threshold: float = Field(default=1e-4, ge=0, lt=1)
    """Share by which a loss must be lower than the best to count as better."""
    min_learning_rate: float = Field(default=0.0, ge=0)


Schedule = Annotated[
    CosineSchedule | ConstantSchedule | LinearSchedule | StepSchedule | OneCycleSchedule | PlateauSchedule,
    OneOf(),
]
"""`penstock.modelkit.schedules` has a file for each, named by its type."""


class EarlyStopping(Model):
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch's weights are kept."""
    min_delta: float = Field(default=0.0, ge=0)


class FairnessConstraint(Model):
    notion: Literal["demographic_parity", "equalized_odds", "equal_opportunity"]
    by: FieldName
    strength: float = Field(default=1.0, ge=0)
    """From `defaults: 2` on 0.3, which costs little."""


class Trainer(Model):
    epochs: int = Field(default=30, ge=1, le=10_000)
    """From `defaults: 2` on as many as make some 2,000 steps, 20 at least, where a family is trained in
    batches.
    """
    batch_size: int = Field(default=256, ge=1)
    """From `defaults: 2` on a sixteenth of the training rows, 32 to 256."""
    optimizer: Optimizer = Adamw()
    schedule: Schedule = CosineSchedule()
    early_stopping: EarlyStopping | None = EarlyStopping()
    class_weights: Literal["balanced", "none"] = "none"
    gradient_clip: float | None = Field(default=None, gt=0)
    """Greatest norm of a step's gradient; a longer one is scaled down to it."""
    gradient_accumulation: int = Field(default=1, ge=1, le=1024, exclude_if=lambda said: said == 1)
    """Batches whose gradients make one step: that of a `batch_size` so many times as large, dropout and
    constraint included, in the memory of one batch.
    """
    fairness: FairnessConstraint | None = None

    @property
    def step_rows(self) -> int:
        """Rows of a step."""
        return self.batch_size * self.gradient_accumulation


def by_steps(rows: int, steps: int = 2000, patience: float = 0.2) -> dict[str, Any]:
    """Plans batches and epochs for so many training rows: `steps` steps at least in batches of at most
    256 rows, and 20 epochs at least. `patience`: share of the epochs that early stopping waits.
    """
    size = int(min(256, max(32, 2 ** round(math.log2(max(1, rows) / 16)))))
    epochs = max(20, min(200, round(steps * size / max(1, rows))))
    return {
        "batch_size": size,
        "epochs": epochs,
        "early_stopping": {"patience": max(5, round(patience * epochs))},
    }
