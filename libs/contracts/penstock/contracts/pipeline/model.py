"""`model`: the families of models. A family is a class with its keys, and its place in the union."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from penstock.contracts.measures import Task
from penstock.contracts.pipeline.base import FieldName, Model
from penstock.contracts.pipeline.features import ENCODINGS, Scale
from penstock.contracts.pipeline.trainer import Trainer, by_steps
from penstock.contracts.pipeline.variants import OneOf, Unused

Hidden = tuple[Annotated[int, Field(ge=1, le=4096)], ...]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Searched = Mapping[str, Mapping[str, Any]]

_SHARE = {"low": 0.0, "high": 0.5}
_WIDTHS = [[64], [64, 32], [128, 128], [256, 128]]


def _adamw(low: float, high: float) -> dict[str, Any]:
    """Learning rates to search, and weight decays."""
    rate, decay = {"low": low, "high": high, "log": True}, {"low": 1e-5, "high": 0.1, "log": True}
    return {"optimizer": {"adamw": {"learning_rate": rate, "weight_decay": decay}}}


class FamilySpec(Model):
    """A family's keys, and what it goes by: what a pipeline asks beyond that is refused."""

    targets: ClassVar[frozenset[Task]] = frozenset(get_args(Task))
    # Keys of `features` that it honours: those of numbers, and encodings.
    treatments: ClassVar[frozenset[str]] = frozenset({"impute", "clip", "scale", *ENCODINGS})
    trainer_keys: ClassVar[frozenset[str]] = frozenset(Trainer.model_fields)
    sample_weight: ClassVar[bool] = True  # honours `training.sample_weight`
    workers: ClassVar[bool] = False  # a network: its `fit` takes a loop, which workers may share
    quantiles: ClassVar[bool] = True  # honours a target's `quantiles`
    usual: ClassVar[bool] = False  # searched where `tuner.space` names no families
    # What is searched of it where `tuner.space` is left out, written as there: `model`, `trainer`.
    searched: ClassVar[Searched] = {}

    @property
    def scale(self) -> Scale:
        """Scale of a number that names none."""
        return "standard"

    @property
    def pieces(self) -> bool:
        """Tells whether numbers are taken in pieces too, by a family that can."""
        return True

    def dimension(self, values: int) -> int | None:
        """Width of an embedding of so many values, where the file names none; None for one column a
        value.
        """
        return min(32, max(1, (values + 1) // 2))

    @classmethod
    def by_rows(cls, rows: int, said: Mapping[str, Any]) -> dict[str, Any]:
        """Chooses parts of the file for so many training rows. What the file says (`said`) stands
        before what is chosen.
        """
        return {"trainer": by_steps(rows)} if "batch_size" in cls.trainer_keys else {}


class NetworkSpec(FamilySpec):
    """Keys of a network, trained batch by batch in `penstock.modelkit.training`'s loop."""

    workers = True


class Mlp(NetworkSpec):
    """A network of fully connected layers with dropout."""

    usual = True
    searched: ClassVar[Searched] = {
        "model": {"recipe": ["plain", "realmlp"], "hidden": _WIDTHS, "dropout": _SHARE},
        "trainer": {**_adamw(3e-4, 0.05), "batch_size": [64, 128, 256]},
    }

    type: Literal["mlp"] = "mlp"
    recipe: Literal["plain", "realmlp"] = Field(default="plain", exclude_if=lambda said: said == "plain")
    """`plain`: ReLU, numbers in pieces. `realmlp` (Holzmüller et al. 2024): SELU, numbers in pieces,
    scaled by quartiles and as waves of learned lengths; it wants ten times the learning rate.
    `defaults: 2` chooses it, with its optimizer, where the file names no optimizer.
    """
    hidden: Hidden = (64, 32)
    """Width of each layer."""
    dropout: Dropout = 0.1
    """Share of each layer's outputs that a training step leaves out."""

    @property
    def scale(self) -> Scale:
        return "robust" if self.recipe == "realmlp" else super().scale

    def dimension(self, values: int) -> int | None:
        if self.recipe == "plain":
            return super().dimension(values)
        return 8 if values > 8 else None

    @classmethod
    def by_rows(cls, rows: int, said: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe as a whole, or none of it: its learning rate suits no other."""
        if "optimizer" in said.get("trainer", {}) or said["model"].get("recipe") == "plain":
            return super().by_rows(rows, said)
        steps = by_steps(rows, patience=0.5)  # the last epochs are the best, as their rate is low
        optimizer = {"type": "adamw", "learning_rate": 0.02, "weight_decay": 0.02, "beta2": 0.95}
        return {
            "model": {"recipe": "realmlp", "hidden": (128, 128), "dropout": 0.15},
            "trainer": {**steps, "optimizer": optimizer},
        }


class TabM(NetworkSpec):
    """Networks that share their weights and are trained side by side (Gorishniy et al. 2025), with its
    authors' defaults. A step costs `k` times that of an `mlp` as wide.
    """

    searched: ClassVar[Searched] = {
        "model": {"hidden": [[256, 256], [512, 512]], "dropout": _SHARE},
        "trainer": _adamw(3e-4, 5e-3),
    }

    type: Literal["tabm"]
    k: int = Field(default=32, ge=1, le=256)
    """Members."""
    hidden: Annotated[Hidden, Field(min_length=1)] = (512, 512)
    """Width of each layer."""
    dropout: Dropout = 0.1
    """Share of each layer's outputs that a training step leaves out."""

    @classmethod
    def by_rows(cls, rows: int, said: Mapping[str, Any]) -> dict[str, Any]:
        """Optimizer of its authors; half the steps that others have, as each is dear."""
        optimizer = {"type": "adamw", "learning_rate": 0.002, "weight_decay": 3e-4}
        return {"trainer": {**by_steps(rows, steps=1000), "optimizer": optimizer}}


class Linear(NetworkSpec):
    """A linear or logistic regression, trained by gradient descent: at the usual rate its steps may end
    0.01 of AUROC short of the best one, with `trainer: {optimizer: {learning_rate: 0.01}}` nearer.
    """

    usual = True
    searched: ClassVar[Searched] = {"trainer": _adamw(1e-3, 0.1)}

    type: Literal["linear"]
    hidden: Unused[Hidden] = (64, 32)
    dropout: Unused[Dropout] = 0.1


Cross = Annotated[tuple[FieldName, ...], Field(min_length=2, max_length=4)]


class WideDeep(NetworkSpec):
    """A linear part over every value of a category and over crosses, beside a network of fully
    connected layers; both are learned together (Cheng et al. 2016).
    """

    searched: ClassVar[Searched] = {
        "model": {"hidden": _WIDTHS, "dropout": _SHARE},
        "trainer": _adamw(3e-4, 0.03),
    }

    type: Literal["wide_deep"]
    crosses: tuple[Cross, ...] = ()
    """Features, `[[education, occupation]]`: each combination of their values has a weight of its own
    in the linear part. Categories and booleans.
    """
    hidden: Hidden = (64, 32)
    """Width of each layer of the network."""
    dropout: Dropout = 0.1
    """Share of each layer's outputs that a training step leaves out."""


class FtTransformer(NetworkSpec):
    """A transformer that looks at a row's features as tokens (Gorishniy et al. 2021), with its authors'
    sizes and dropouts. Weight decay leaves out tokens, norms and biases.
    """

    treatments = FamilySpec.treatments - {"embedding"}  # each value has a token's width
    searched: ClassVar[Searched] = {
        "model": {
            "blocks": {"low": 1, "high": 4},
            "attention_dropout": _SHARE,
            "ffn_dropout": _SHARE,
            "numbers": ["linear", "piecewise"],
        },
        "trainer": _adamw(1e-4, 3e-3),
    }

    type: Literal["ft_transformer"]
    d: int = Field(default=192, ge=1, le=1024)
    """Width of a token; a multiple of `heads`."""
    blocks: int = Field(default=3, ge=1, le=12)
    """Layers of attention, each with one of ReGLU behind it."""
    heads: int = Field(default=8, ge=1, le=64)
    """Parts of a token that look at the other tokens each for itself."""
    attention_dropout: Dropout = 0.2
    """Share of looks between tokens that a training step leaves out."""
    ffn_dropout: Dropout = 0.1
    """Share of hidden outputs that a training step leaves out."""
    residual_dropout: Dropout = 0.0
    """Share of each block's outputs that a training step leaves out."""
    numbers: Literal["linear", "piecewise"] = Field(
        default="linear", exclude_if=lambda said: said == "linear"
    )
    """A number's token: `linear`, a vector times the number; `piecewise`, a vector a piece beside it,
    so that it has bends (Gorishniy et al. 2022). `defaults: 2` chooses the second.
    """

    @property
    def pieces(self) -> bool:
        return self.numbers == "piecewise"

    @classmethod
    def by_rows(cls, rows: int, said: Mapping[str, Any]) -> dict[str, Any]:
        optimizer = {"type": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-5}
        return {"model": {"numbers": "piecewise"}, "trainer": {**by_steps(rows), "optimizer": optimizer}}


class Monotone(Model):
    """A family whose answer can be held to rise, or to fall, with a number."""

    monotone: dict[FieldName, Literal["increasing", "decreasing"]] = Field(default_factory=dict)
    """Numbers among the features, each with what the positive class's probability, or the value, does
    when that number rises and all else stays: no tree may contradict it.
    """


class BoostedTrees(FamilySpec, Monotone):
    """Gradient boosting of decision trees, by LightGBM (Ke et al. 2017): each tree is fitted on what
    those before it left over. Keys but `monotone` and `rounds_per_epoch` go by LightGBM's names.
    """

    treatments = frozenset({"one_hot"})
    trainer_keys = frozenset({"epochs", "early_stopping", "class_weights"})
    usual = True
    searched: ClassVar[Searched] = {
        "model": {
            "learning_rate": {"low": 0.01, "high": 0.3, "log": True},
            "num_leaves": {"low": 4, "high": 63, "log": True},
            "min_data_in_leaf": {"low": 2, "high": 100, "log": True},
            "lambda_l2": {"low": 1e-3, "high": 100.0, "log": True},
        }
    }

    type: Literal["boosted_trees"]
    rounds_per_epoch: int = Field(default=10, ge=1, le=1000)
    """Rounds between two looks at the validation split; a round adds one tree, with several classes
    one for each.
    """
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Share of each tree's answer that counts; by default from the training rows, 0.03 to 0.1."""
    num_leaves: int = Field(default=31, ge=2, le=1024)
    """Leaves of a tree at most."""
    min_data_in_leaf: int = Field(default=20, ge=1)
    """Training rows in a leaf at least; from `defaults: 2` on a tenth of fewer than 200 rows."""
    lambda_l2: float = Field(default=1.0, ge=0)
    """Draws each leaf's answer towards 0."""
    max_bin: int = Field(default=255, ge=2, le=65_535)
    """Pieces that a number is cut into; a tree asks at their edges."""
    max_cat_to_onehot: int = Field(default=256, ge=1)
    """A category of at most so many values is split into one value and the others; one of more into
    two sets of values, in the order of their gradients (Fisher 1958).
    """

    @classmethod
    def by_rows(cls, rows: int, said: Mapping[str, Any]) -> dict[str, Any]:
        """Smaller trees for fewer rows, and smaller leaves where 20 rows are many. Early stopping ends
        the training, not the number of epochs, but for several classes: each has trees of its own, and
        all of them are served.
        """
        several = any(target["type"] == "multiclass" for target in said["targets"].values())
        return {
            "model": {
                "num_leaves": 16 if rows < 30_000 else 31,
                **({"min_data_in_leaf": max(1, rows // 10)} if rows < 200 else {}),
            },
            "trainer": {"epochs": 30 if several else 100},
        }


class Autoencoder(NetworkSpec):
    """A detector of anomalies: a network that learns to give the negative class's rows back through a
    few numbers (Rumelhart, Hinton and Williams 1986). How wrongly a row comes back becomes the
    positive class's probability, on the validation rows (Platt 1999).
    """

    targets = frozenset({"binary"})
    treatments = frozenset({"impute", "clip", "scale", "one_hot"})
    trainer_keys = frozenset(
        {
            "epochs",
            "batch_size",
            "optimizer",
            "schedule",
            "early_stopping",
            "gradient_clip",
            "gradient_accumulation",
        }
    )
    quantiles = False
    searched: ClassVar[Searched] = {
        "model": {"hidden": [[32], [64, 16], [128, 32]]},
        "trainer": _adamw(3e-4, 0.03),
    }

    type: Literal["autoencoder"]
    hidden: Hidden = (64, 16)
    """Width of each layer on the way to the code; on the way back they come in reverse."""
    code: int | None = Field(default=None, ge=1, le=4096)
    """Numbers that a row is pressed into; by default about the root of its columns. At most half as many
    as columns: else there is nothing to learn.
    """


Member = Mlp | Linear | WideDeep | FtTransformer | TabM | BoostedTrees | Autoencoder


class Ensemble(FamilySpec):
    """Several models whose answers are averaged; how much each counts is chosen on the validation split
    (Caruana et al. 2004). It does what all of them do: what one does not, the file cannot ask for.
    """

    quantiles = False

    type: Literal["ensemble"]
    members: tuple[Annotated[Member, OneOf(alone=True)], ...] = Field(
        default=(Mlp(), BoostedTrees(type="boosted_trees")), max_length=16
    )
    """Models, each with its keys, or its name alone: `[mlp, {type: boosted_trees, num_leaves: 15}]`. Each
    is trained by the parts of `trainer` that it knows.
    """
    trainers: tuple[Trainer, ...] = Field(default=(), max_length=16, exclude_if=lambda said: not said)
    """Trainers, one a member, in their order, in place of `trainer`: `[{epochs: 20}, {epochs: 300}]`."""

    @classmethod
    def by_rows(cls, rows: int, said: Mapping[str, Any]) -> dict[str, Any]:
        return {}  # each member has its own


ModelSpec = Annotated[Member | Ensemble, OneOf()]
"""`penstock.modelkit.families` has a file for each, named by its type."""
