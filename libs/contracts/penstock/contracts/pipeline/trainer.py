"""`trainer`: how a model is fitted. An optimizer or a schedule is a class, and its place in its union."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.contracts.pipeline.base import FieldName, Model
from penstock.contracts.pipeline.variants import OneOf, Unused

Momentum = Annotated[float, Field(ge=0, lt=1)]


class _Optimizer(Model):
    type: str
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0)


class Adamw(_Optimizer):
    """Adam with weight decay beside the gradient (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    momentum: Unused[Momentum] = 0.9


class Adam(_Optimizer):
    """Adam, weight decay as part of the gradient (Kingma and Ba 2015)."""

    type: Literal["adam"]
    momentum: Unused[Momentum] = 0.9


class Sgd(_Optimizer):
    """Stochastic gradient descent."""

    type: Literal["sgd"]
    momentum: Momentum = 0.9


Optimizer = Annotated[Adamw | Adam | Sgd, OneOf()]


class _Schedule(Model):
    type: str
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps spent rising from 0 to the learning rate."""


class CosineSchedule(_Schedule):
    """Falls to 0 along half a cosine."""

    type: Literal["cosine"] = "cosine"


class ConstantSchedule(_Schedule):
    """Stays at the learning rate."""

    type: Literal["constant"]


class LinearSchedule(_Schedule):
    """Falls to 0 in a straight line."""

    type: Literal["linear"]


Schedule = Annotated[CosineSchedule | ConstantSchedule | LinearSchedule, OneOf()]
"""`penstock.modelkit.optimizer.learning_rate` has a case for each."""


class EarlyStopping(Model):
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops; the best epoch's weights are kept."""
    min_delta: float = Field(default=0.0, ge=0)


class FairnessConstraint(Model):
    notion: Literal["demographic_parity", "equalized_odds", "equal_opportunity"]
    by: FieldName
    strength: float = Field(default=1.0, ge=0)


class Trainer(Model):
    epochs: int = Field(default=30, ge=1, le=10_000)
    batch_size: int = Field(default=256, ge=1)
    optimizer: Optimizer = Adamw()
    schedule: Schedule = CosineSchedule()
    early_stopping: EarlyStopping | None = EarlyStopping()
    class_weights: Literal["balanced", "none"] = "none"
    gradient_clip: float | None = Field(default=None, gt=0)
    fairness: FairnessConstraint | None = None
