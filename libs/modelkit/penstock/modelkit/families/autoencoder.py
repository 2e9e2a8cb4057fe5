"""`model: {type: autoencoder}`: a network that gives a row back through a few numbers. It learns from
the negative class alone, so that what is unlike those rows comes back wrong.

D. E. Rumelhart, G. E. Hinton, R. J. Williams, *Learning Internal Representations by Error
Propagation* (1986); as a detector M. Sakurada, T. Yairi, *Anomaly Detection Using Autoencoders with
Nonlinear Dimensionality Reduction* (MLSDA 2014).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Autoencoder, Pipeline
from penstock.measures.performance import ranks
from penstock.modelkit.calibration import Sigmoid, platt
from penstock.modelkit.decision import probabilities
from penstock.modelkit.detectors import isolation_forest, mahalanobis
from penstock.modelkit.family import Description, Epoch, Family, Part, Prepared
from penstock.modelkit.features import Features, Inputs, Value
from penstock.modelkit.graph import DOUBLE, FLOAT, Array, Graph
from penstock.modelkit.network import Tensors, Trainable
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.training import Loop, seed_everything, train, weights_digest
from penstock.packages.parts import Bar, Bars, Histogram, Picture, Series

LEAST_ERROR = 1e-12  # what an error of 0 counts in the logarithm
BINS = 40
LIMITS = (
    "It knows one kind of normal: an anomaly that is a usual row in every respect it was given looks"
    " normal, and a normal row of a new kind looks like an anomaly.",
)


class Mirror(Trainable):
    """Layers that narrow to `code` numbers and widen again, with ReLU between them."""

    def __init__(self, columns: int, hidden: tuple[int, ...], code: int) -> None:
        super().__init__()
        widths = (columns, *hidden, code, *reversed(hidden), columns)
        layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, dense: Tensor, _buckets: Tensor) -> Tensor:
        found: Tensor = self.layers(squeezed(dense))
        return found

    def errors(self, dense: Tensor) -> Array:
        """float64 [N]: logarithm of the mean squared error of a row. In FP64, as in the graph: an error
        is a small difference.
        """
        layers, wanted = copy.deepcopy(self.layers).double(), squeezed(dense.double())
        with torch.no_grad():
            square = ((layers(wanted) - wanted) ** 2).mean(dim=1)
        found: Array = torch.log(square + LEAST_ERROR).numpy()
        return found

    def compile_errors(self, graph: Graph, dense: str) -> str:
        """Nodes for `errors`, FP64 [N, 1]."""
        one = graph.constant(1.0, np.float64)
        value = graph.op("Cast", dense, to=DOUBLE)
        sign, size = graph.op("Sign", value), graph.op("Abs", value)
        wanted = found = graph.op("Mul", sign, graph.op("Log", graph.op("Add", size, one)))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                weight = graph.constant(layer.weight.detach().double().numpy().T, np.float64)
                bias = graph.constant(layer.bias.detach().double().numpy(), np.float64)
                found = graph.op("Gemm", found, weight, bias)
            else:
                found = graph.op("Relu", found)
        away = graph.op("Sub", found, wanted)
        square = graph.op(
            "ReduceMean", graph.op("Mul", away, away), graph.constant([1], np.int64), keepdims=1
        )
        return graph.op("Log", graph.op("Add", square, graph.constant(LEAST_ERROR, np.float64)))


def squeezed(values: Tensor) -> Tensor:
    """Tails drawn in, so that a few extreme rows are not all that there is to learn."""
    return torch.sign(values) * torch.log(1 + torch.abs(values))


@dataclass(frozen=True, slots=True)
class Reconstruction(Objective):
    """The mean squared error of the squeezed columns, which are the labels, [B, d]."""

    def of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(logits, labels, reduction="none").mean(dim=1)

    def measured(self, logits: Tensor, labels: Tensor) -> tuple[str, float]:
        return "reconstruction_error", functional.mse_loss(logits, labels).item()


@dataclass(frozen=True)
class TrainedAutoencoder:
    network: Mirror
    calibrated: Sigmoid
    history: tuple[Epoch, ...]
    description: Description

    def predict(self, inputs: Inputs) -> Array:
        logits = self.calibrated.logits(self.network.errors(Tensors.of(inputs).dense))
        answers: Array = 1 / (1 + np.exp(np.stack([logits, -logits], axis=1)))
        return answers

    def compile(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        errors = self.network.compile_errors(graph, inputs["dense"])
        scaled = graph.op("Mul", errors, graph.constant(self.calibrated.slope, np.float64))
        logits = graph.op("Add", scaled, graph.constant(self.calibrated.intercept, np.float64))
        return graph.op("Cast", probabilities(graph, logits, "binary"), to=FLOAT)

    def digest(self) -> str:
        learned = f"{weights_digest(self.network)} {tuple(self.calibrated)!r}"
        return f"sha256:{hashlib.sha256(learned.encode()).hexdigest()}"

    def describe(self) -> Description:
        return self.description


class AutoencoderFamily:
    spec = Autoencoder

    def inputs(self, features: Features) -> dict[str, Value]:
        return features.tensors(pieces=False)

    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        loop: Loop = train,
    ) -> TrainedAutoencoder:
        spec, plan, seed = pipeline.model, pipeline.trainer, pipeline.training.seed
        assert isinstance(spec, Autoencoder)
        seed_everything(seed)
        training, validation = _normal(prepared.train), _normal(prepared.validation)
        columns = training.labels.shape[1]
        code = min(spec.code or round(columns**0.5) + 1, max(1, columns // 2))
        network = Mirror(columns, spec.hidden, code)
        history = loop(
            network,
            Reconstruction("regression"),
            training,
            validation,
            plan,
            seed=seed,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
        errors = network.errors(Tensors.of(prepared.validation.inputs).dense)
        calibrated = _calibrated(errors, prepared.validation)
        rows = len(training.labels)
        description = Description(
            kind=f"autoencoder, layers {', '.join(map(str, spec.hidden))} and back, code of {code} numbers",
            training=(
                f"Trained {len(history)} of at most {plan.epochs} epochs on the {rows} training rows of class"
                f" `{prepared.signature.classes[0]}`, learning rate {plan.optimizer.learning_rate:g}; its"
                " error was turned into a probability on the validation rows (Platt 1999)"
            ),
            library="torch",
            limits=LIMITS,
            pictures=_pictures(prepared, errors, seed),
            calibrated=True,
        )
        return TrainedAutoencoder(network, calibrated, history, description)


def _normal(part: Part) -> Split:
    """The negative class's rows, as the loop takes them."""
    rows = np.flatnonzero(part.rows.labels == 0)
    tensors = Tensors.of({"dense": np.asarray(part.inputs["dense"])[rows]})
    weights = part.rows.weights
    counts = None if weights is None else torch.from_numpy(weights[rows].astype(np.float32))
    return Split(tensors, squeezed(tensors.dense), weights=counts)


def _calibrated(errors: Array, validation: Part) -> Sigmoid:
    """Raises Invalid where the positive class's errors are no larger: there is nothing to detect."""
    found = platt(errors, validation.rows.labels, validation.rows.weights)
    if found.slope <= 0:
        raise Invalid(
            "on the validation rows the positive class comes back no worse than the negative one: by these"
            " features its rows are no anomalies",
            where="model.type",
            remedy="Give it other features, or take a family that learns from both classes",
        )
    return found


def _pictures(prepared: Prepared, errors: Array, seed: int) -> tuple[Picture, ...]:
    """Errors of both classes, and the AUROC of simpler detectors fitted on the same rows."""
    train, validation = prepared.train, prepared.validation
    positive = validation.rows.labels == 1
    edges = np.linspace(errors.min(), errors.max(), BINS + 1) / np.log(10)
    counted = [np.histogram(errors[rows] / np.log(10), edges)[0] for rows in (~positive, positive)]
    shown = Histogram(
        title="Reconstruction error",
        about="Share of each class's validation rows by how wrongly they come back.",
        axis="Mean squared error, power of ten",
        edges=tuple(edges.tolist()),
        series=tuple(
            Series(
                name=f"{prepared.signature.target.name} = {name}",
                shares=tuple((counts / counts.sum()).tolist()),
            )
            for name, counts in zip(prepared.signature.classes, counted, strict=True)
        ),
    )
    columns, rows = (np.asarray(part.inputs["dense"], np.float64) for part in (train, validation))
    normal = columns[train.rows.labels == 0]
    scores = {
        "autoencoder": errors,
        "Mahalanobis distance": mahalanobis(normal)(rows),
        "isolation forest": isolation_forest(normal, seed)(rows),
    }
    alike = np.ones((1, len(rows)))
    areas = {name: float(ranks(positive, score)(alike)[0]) for name, score in scores.items()}
    bars = tuple(Bar(name=f"{name} {area:.4f}", value=area) for name, area in areas.items())
    return shown, Bars(
        title="Beside simpler detectors",
        about=(
            "All learned from the same normal rows. On the validation rows, on which the autoencoder's last"
            " epoch was chosen."
        ),
        axis="AUROC",
        bars=bars,
    )


FAMILY: Family = AutoencoderFamily()
