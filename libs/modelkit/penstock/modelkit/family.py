"""A family of models: all that training, the package and the audit need to know of one.

A family is its keys in `penstock.contracts.pipeline.model` and a module in
`penstock.modelkit.families`, named by its type, that holds `FAMILY`. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from penstock.contracts.errors import Unavailable
from penstock.contracts.pipeline import EarlyStopping, FamilySpec, ModelSpec, Pipeline
from penstock.modelkit.features import Features, Inputs, Value
from penstock.modelkit.graph import Array, Graph
from penstock.modelkit.preprocessing import Preprocessing
from penstock.modelkit.rows import RowSource
from penstock.packages.parts import ModelSignature, Picture

if TYPE_CHECKING:
    from penstock.modelkit.training import Loop


@dataclass(frozen=True, slots=True)
class Epoch:
    """A pass over the training split, or one round: its number, from 1, of the `epochs` planned.

    `train_loss` is the mean over the epoch's batches, with penalty and class weights;
    `validation_loss` that of the validation split, without dropout; `learning_rate` the one at the
    epoch's end. `elapsed_s` counts from the beginning of the run's first epoch and leaves out the
    pause between a kill and the resumption. `took_s` is the time for training on `rows` and looking at
    the validation split, of it `data_s` for cutting batches and `communication_s` for waiting for
    other workers; `step_s` is that of a step, of trees a round, in the epoch's mean. `workers`
    trained it. On a GPU a step was under way for `gpu_s`, and tensors took `gpu_bytes` at most.
    """

    number: int
    epochs: int
    train_loss: float
    validation_loss: float
    validation_metric: float
    metric: str
    learning_rate: float
    elapsed_s: float
    rows: int = 0
    took_s: float = 0.0
    data_s: float = 0.0
    communication_s: float = 0.0
    step_s: float = 0.0
    workers: int = 1
    gpu_s: float = 0.0
    gpu_bytes: int = 0


class Part(NamedTuple):
    """The training or the validation split."""

    rows: RowSource
    inputs: Inputs


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows read and treated: the same for every run on one training set whose features and family
    are the same.
    """

    signature: ModelSignature
    preprocessing: Preprocessing
    train: Part
    validation: Part

    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of a regression's target in training; else 0 and 1."""
        if self.signature.target.type != "regression":
            return 0.0, 1.0
        labels = self.train.rows.labels
        return float(labels.mean()), float(labels.std()) or 1.0


class Description(NamedTuple):
    """Words for the model card, and what the audit's report shows of the model. `library`: the one
    whose answer the graph is compared with.
    """

    kind: str  # mlp, hidden layers 64, 32, dropout 0.1
    training: str  # Trained 12 of at most 30 epochs with adamw
    library: str
    limits: tuple[str, ...] = ()  # sentences on what no model of this kind can do
    importance: Mapping[str, float] = {}  # by feature, shares of 1; empty where it has no such measure
    pictures: tuple[Picture, ...] = ()  # aggregates of training or validation rows, no person's own
    calibrated: bool = False  # its probabilities were fitted to the validation rows after training


class Trained(Protocol):
    """A fitted model. Its answers are probabilities of each class [N, k], or values [N, 1]; with the
    target's quantiles [N, 3], both of them after the value, the lower one first.
    """

    @property
    def history(self) -> Sequence[Epoch]:
        """Every epoch, in order."""

    def predict(self, inputs: Inputs) -> Array:
        """Answers as float64, by the library that fitted it."""

    def compile(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        """Nodes for the same answers, FP32. `inputs`: the graph's values by the family's names."""

    def digest(self) -> str:
        """`sha256:…` over all that was learned: two runs that agree on it agree on every bit."""

    def describe(self) -> Description: ...


class Family(Protocol):
    """A kind of model. What it cannot do, its spec says, and the pipeline file is refused."""

    @property
    def spec(self) -> type[FamilySpec]: ...

    def inputs(self, features: Features) -> dict[str, Value]:
        """Names the inputs that it learns from and that the graph gives its model."""

    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> Trained:
        """Goes by `pipeline.model`, `trainer` and `training.seed`.

        With `checkpoint` it goes on from that file where there is one, to the same bits as a run
        that was not killed, and `on_epoch` hears of every epoch, those of before first. Raises
        Invalid, with the key to change, where it cannot learn; Conflict when the checkpoint is of
        another run.
        """


class Spreadable(Family, Protocol):
    """A family whose spec has `workers`: it is trained by `penstock.modelkit.training`'s loop, or by
    another that leads to the same.
    """

    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        loop: Loop = ...,
    ) -> Trained: ...


def family_of(model: ModelSpec) -> Family:
    """The family of that type. Imports what it is made with, seconds for torch."""
    found: Family = import_module(f"penstock.modelkit.families.{model.type}").FAMILY
    return found


def kept(history: Sequence[Epoch], stopping: EarlyStopping | None) -> tuple[int, bool]:
    """Index of the epoch whose model is kept, and whether training ends with the last one."""
    if stopping is None:
        return len(history) - 1, False
    best = 0
    for index, epoch in enumerate(history):
        if epoch.validation_loss < history[best].validation_loss - stopping.min_delta:
            best = index
    return best, len(history) - 1 - best >= stopping.patience


def write_whole(path: Path, content: bytes) -> None:
    """Replaces the file by the new content, or not at all; on disk before it returns. Raises Unavailable
    on a full disk.
    """
    beside = path.with_suffix(".new")
    with room_for(beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    beside.replace(path)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Raises Unavailable where the disk is full, and leaves no part of the file, or folder."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise Unavailable(
            "the disk is full",
            where=str(path),
            remedy="Free some room: for some ten minutes the run is tried again, from its last epoch",
        ) from error
