"""Baselines: a linear model and boosted trees on the same rows and features, fitted in seconds. Their
graphs go into the package, so that the audit can say what a simpler model would have been worth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from scipy.optimize import minimize
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from penstock.contracts import rules
from penstock.contracts.errors import PenstockError
from penstock.contracts.pipeline import (
    BoostedTrees,
    ByField,
    EarlyStopping,
    Embedding,
    Linear,
    OneHot,
    Pipeline,
    Trainer,
)
from penstock.modelkit.build import treated
from penstock.modelkit.decision import choose_threshold
from penstock.modelkit.families import linear
from penstock.modelkit.family import Prepared, Trained, family_of
from penstock.modelkit.graph import Array
from penstock.modelkit.model import compile_model, run
from penstock.modelkit.network import Network
from penstock.modelkit.neural import TrainedNetwork, learning
from penstock.modelkit.objective import Objective, Split
from penstock.modelkit.rows import Rows, classes, signature
from penstock.modelkit.stored import opened
from penstock.modelkit.training import seed_everything
from penstock.packages.parts import ModelSignature

STEPS = 60  # of L-BFGS
MAX_VALUES = 20_000_000  # of the matrix that a linear model is fitted to; the first rows of more
_TREES = BoostedTrees(type="boosted_trees", learning_rate=0.1, num_leaves=16)
_BRIEF = Trainer(epochs=20, early_stopping=EarlyStopping(patience=2))
# Sections of the file that judge or search the model alone: of intervals, for one, which no baseline has.
_OF_THE_MODEL = frozenset({"audit", "tuner"})


def baselines(pipeline: Pipeline, train_part: Path, validation_part: Path) -> dict[str, bytes]:
    """Graphs by family, with the inputs and the outputs of the model, of a regression without
    interval. One that cannot be fitted on these features is left out, as is that of the model itself.
    """
    listed = classes(train_part)
    named = signature(pipeline, listed)
    parts = [opened(part, named, pipeline).sampled() for part in (train_part, validation_part)]
    found = {}
    for name, fit in FITS.items():
        if name == pipeline.model.type:
            continue
        asked = _asked(pipeline, name)
        if any(problem.path[0] not in _OF_THE_MODEL for problem in rules.problems(asked)):
            continue
        try:
            asked = _one_hot(asked, named, parts[0]) if name == "linear" else asked
            found[name] = _graph(asked, fit, signature(asked, listed), *parts)
        except PenstockError:  # it cannot learn what the model could
            continue
    return found


def _asked(pipeline: Pipeline, name: str) -> Pipeline:
    """The pipeline with the baseline in place of its model, and without what only the model has."""
    targets = {key: target.model_copy(update={"quantiles": None}) for key, target in pipeline.targets.items()}
    model = Linear(type="linear") if name == "linear" else _TREES
    return pipeline.model_copy(update={"model": model, "trainer": _BRIEF, "targets": targets})


def _one_hot(pipeline: Pipeline, named: ModelSignature, training: Rows) -> Pipeline:
    """The pipeline with each value of its categories as an input of its own, where the training split
    has room for them: a linear model says no less by them than by embeddings, in a third of the time.
    """
    treatments = pipeline.resolved_features()
    embedded = {name: one for name, one in treatments.items() if isinstance(one, Embedding)}
    values = sum(len(set(training.strings[:, named.inputs.strings.index(name)])) for name in embedded)
    if values * len(training) > MAX_VALUES:
        return pipeline
    declared = {
        name: pipeline.features.get(name) or ByField(source_field=one.source_field)
        for name, one in treatments.items()
    }
    hot = {
        name: OneHot(source_field=one.source_field, encode="one_hot", min_count=one.min_count)
        for name, one in embedded.items()
    }
    return pipeline.model_copy(update={"features": declared | hot})


def _graph(
    pipeline: Pipeline,
    fit: Callable[[Pipeline, Prepared], Trained],
    named: ModelSignature,
    training: Rows,
    validation: Rows,
) -> bytes:
    prepared = treated(pipeline, named, training, validation)
    model, family, threshold = fit(pipeline, prepared), family_of(pipeline.model), None
    if pipeline.target.type == "binary":
        half = compile_model(prepared.preprocessing, family, model, threshold=0.5)
        scores = run(half, validation, chunk=4096)["probabilities"][:, 1]
        threshold = choose_threshold(pipeline.decision, validation.labels, scores)
    graph = compile_model(
        prepared.preprocessing, family, model, threshold=threshold, abstain=pipeline.decision.abstain
    )
    return graph.SerializeToString(deterministic=True)


def _linear(pipeline: Pipeline, prepared: Prepared) -> Trained:
    """Fits by L-BFGS on all rows at once, with the ridge that scikit-learn's logistic regression has."""
    assert isinstance(pipeline.model, Linear)
    seed_everything(pipeline.training.seed)
    objective, training, _ = learning(pipeline, prepared)
    network = linear.FAMILY.network_of(pipeline.model, prepared, training, objective)  # type: ignore[attr-defined]
    fit_whole(network, objective, training)
    return TrainedNetwork(network, objective.task, *prepared.scale())


def fit_whole(network: Network, objective: Objective, training: Split) -> None:
    """Fits the network in place, without batches (J. Nocedal, *Updating quasi-Newton matrices with
    limited storage*, 1980).
    """
    columns = training.features.batch(torch.arange(1))[0].shape[1] + 1
    rows = torch.arange(min(len(training.labels), MAX_VALUES // columns))
    batch, labels = training.features.batch(rows), training.labels[rows]
    weights = None if training.weights is None else training.weights[rows]
    parameters = list(network.parameters())
    network.train()

    def loss_and_slope(flat: Array) -> tuple[float, Array]:
        vector_to_parameters(torch.from_numpy(flat).float(), parameters)
        network.zero_grad()
        ridge = torch.stack([parameter.square().sum() for parameter in parameters]).sum() / (2 * len(rows))
        loss = objective.loss(network(*batch), labels, None, weights) + ridge
        loss.backward()  # type: ignore[no-untyped-call]
        slopes = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
        return loss.item(), torch.cat(slopes).double().numpy()

    start = parameters_to_vector(parameters).detach().double().numpy()
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    vector_to_parameters(torch.from_numpy(found.x).float(), parameters)
    network.average_unseen()


def _boosted(pipeline: Pipeline, prepared: Prepared) -> Trained:
    return family_of(pipeline.model).fit(pipeline, prepared)


FITS: dict[str, Callable[[Pipeline, Prepared], Trained]] = {"linear": _linear, "boosted_trees": _boosted}
