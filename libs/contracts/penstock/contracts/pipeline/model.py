"""`model`: the families of models. A family is a class with its keys, and its place in the union."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from penstock.contracts.measures import Task
from penstock.contracts.pipeline.base import Model
from penstock.contracts.pipeline.features import ENCODINGS
from penstock.contracts.pipeline.trainer import Trainer
from penstock.contracts.pipeline.variants import OneOf, Unused

Hidden = tuple[Annotated[int, Field(ge=1, le=4096)], ...]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class FamilySpec(Model):
    """A family's keys, and what it goes by: what a pipeline asks beyond that is refused."""

    targets: ClassVar[frozenset[Task]] = frozenset(get_args(Task))
    # Keys of `features` that it honours: those of numbers, and encodings.
    treatments: ClassVar[frozenset[str]] = frozenset({"impute", "clip", "scale", *ENCODINGS})
    trainer_keys: ClassVar[frozenset[str]] = frozenset(Trainer.model_fields)


class Mlp(FamilySpec):
    """A network of fully connected layers with ReLU and dropout."""

    type: Literal["mlp"] = "mlp"
    hidden: Hidden = (64, 32)
    """Width of each layer."""
    dropout: Dropout = 0.1
    """Share of each layer's outputs that a training step leaves out."""


class Linear(FamilySpec):
    """A linear or logistic regression, trained by gradient descent."""

    type: Literal["linear"]
    hidden: Unused[Hidden] = (64, 32)
    dropout: Unused[Dropout] = 0.1


ModelSpec = Annotated[Mlp | Linear, OneOf()]
"""`penstock.modelkit.families` has a file for each, named by its type."""
