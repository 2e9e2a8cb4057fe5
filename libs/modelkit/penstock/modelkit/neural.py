"""Families whose model is a torch network: they differ in what it takes and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from penstock.contracts.measures import Task
from penstock.contracts.pipeline import FamilySpec, Pipeline
from penstock.modelkit.attribution import word_pictures
from penstock.modelkit.decision import probabilities
from penstock.modelkit.fairness import Penalty, groups_of
from penstock.modelkit.family import Description, Epoch, Part, Prepared
from penstock.modelkit.features import Features, Inputs, Value, piece_columns
from penstock.modelkit.graph import Array, Graph
from penstock.modelkit.intervals import ordered
from penstock.modelkit.network import Network, Shape, Tensors
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.texts import Reading, text_parts
from penstock.modelkit.training import Loop, seed_everything, train, weights_digest
from penstock.packages.parts import Picture

SpecT = TypeVar("SpecT", bound=FamilySpec)
LIMITS = (
    "Beyond the least and the greatest value of training its answer goes on along a line that no row has"
    " confirmed.",
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, and the scale of a regression's target that it was fitted on."""

    network: Network
    task: Task
    offset: float = 0.0
    spread: float = 1.0
    history: tuple[Epoch, ...] = ()
    kind: str = ""
    training: str = ""
    limits: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    intervals: bool = False

    def predict(self, inputs: Inputs) -> Array:
        logits = self.network.predict(Tensors.of(inputs))
        if self.task == "regression":
            in_order = torch.cat([logits[:, :1], logits[:, 1:].sort(dim=1).values], dim=1)
            found = in_order * self.spread + self.offset
        elif self.task == "binary":
            found = torch.sigmoid(torch.cat([-logits, logits], dim=1))
        else:
            found = torch.softmax(logits, dim=1)
        return found.double().numpy()

    def compile(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        logits = self.network.compile_into(graph, inputs)
        if self.task != "regression":
            return probabilities(graph, logits, self.task)
        if self.intervals:
            logits = ordered(graph, logits)
        scaled = graph.op("Mul", logits, graph.constant(self.spread, np.float32))
        return graph.op("Add", scaled, graph.constant(self.offset, np.float32))

    def digest(self) -> str:
        return weights_digest(self.network)

    def describe(self) -> Description:
        return Description(self.kind, self.training, "torch", limits=self.limits, pictures=self.pictures)


@dataclass(frozen=True)
class Neural(Generic[SpecT]):
    """A family of networks. `inputs` are those of `Features.tensors`, or named alike; `network` makes
    one with new weights, `kind` and `limits` are words for the model card.
    """

    spec: type[SpecT]
    inputs: Callable[[Features], dict[str, Value]]
    network: Callable[[SpecT, Shape], Network]
    kind: Callable[[SpecT], str]
    limits: tuple[str, ...] = LIMITS

    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        loop: Loop = train,
    ) -> TrainedNetwork:
        spec, plan, seed = pipeline.model, pipeline.trainer, pipeline.training.seed
        assert isinstance(spec, self.spec)
        seed_everything(seed)
        objective, training, validation = learning(pipeline, prepared)
        network = self.network_of(spec, prepared, training, objective)
        history = loop(
            network,
            objective,
            training,
            validation,
            plan,
            seed=seed,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        told = (
            f"Trained {len(history)} of at most {plan.epochs} epochs with {plan.optimizer.type}, learning"
            f" rate {plan.optimizer.learning_rate:g}, batches of {plan.batch_size}"
        )
        if plan.gradient_accumulation > 1:
            told += f", {plan.gradient_accumulation} of them a step"
        limits = self.limits
        pictures: tuple[Picture, ...] = ()
        if isinstance(network, Reading):
            names = _outputs(pipeline, prepared)
            limits += network.limits()
            pictures = word_pictures(network, validation.features, names)
        return TrainedNetwork(
            network,
            objective.task,
            *prepared.scale(),
            history,
            self.kind(spec),
            told,
            limits,
            pictures,
            intervals=objective.quantiles is not None,
        )

    def network_of(self, spec: SpecT, prepared: Prepared, training: Split, objective: Objective) -> Network:
        """A network with new weights, behind what reads the texts where there are any."""
        outputs = 3 if objective.quantiles else 1
        if objective.task == "multiclass":
            outputs = len(prepared.signature.classes)
        numbers, strings = prepared.preprocessing.numbers, prepared.preprocessing.strings
        texts = text_parts(strings)
        dense = training.features.dense.shape[1] + sum(width for *_, width in training.features.words)
        dense += sum(text.width for text in texts)
        network = self.network(spec, Shape(strings, dense, outputs, len(numbers), piece_columns(numbers)))
        return Reading(texts, network) if texts else network


def _outputs(pipeline: Pipeline, prepared: Prepared) -> tuple[str, ...]:
    """Outputs of the network, in words."""
    name, classes = next(iter(pipeline.targets)), prepared.signature.classes
    if not classes:
        quantiles = [f"the {share:g} quantile of `{name}`" for share in pipeline.target.quantiles or ()]
        return tuple(f"{each}, in standard deviations" for each in (f"`{name}`", *quantiles))
    shown = classes[1:] if len(classes) == 2 else classes
    return tuple(f"the logit of `{name}` = {each}" for each in shown)


def learning(pipeline: Pipeline, prepared: Prepared) -> tuple[Objective, Split, Split]:
    """Makes the objective, and both parts as the loop takes them."""
    train, validation = prepared.train, prepared.validation
    weights = penalty = train_groups = validation_groups = None
    if pipeline.trainer.class_weights == "balanced" and prepared.signature.classes:
        counts = np.bincount(train.rows.labels, minlength=len(prepared.signature.classes))
        weights = torch.tensor(len(train.rows) / (len(counts) * counts), dtype=torch.float32)
    constraint = pipeline.trainer.fairness
    if constraint is not None and constraint.strength:
        count, train_groups, validation_groups = groups_of(
            pipeline, constraint.by, train.rows, validation.rows
        )
        penalty = Penalty(constraint.notion, constraint.strength, count)
    offset, spread = prepared.scale()

    def split(part: Part, groups: Array | None) -> Split:
        labels = part.rows.labels
        if pipeline.target.type == "regression":
            labels = ((labels - offset) / spread).astype(np.float32)
        rows = part.rows.weights
        return Split(
            Tensors.of(part.inputs),
            torch.from_numpy(labels),
            None if groups is None else torch.from_numpy(groups),
            None if rows is None else torch.from_numpy(rows.astype(np.float32)),
        )

    objective = Objective(pipeline.target.type, weights, penalty, spread, pipeline.target.quantiles)
    return objective, split(train, train_groups), split(validation, validation_groups)
