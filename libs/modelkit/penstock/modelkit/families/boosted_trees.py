"""`model: {type: boosted_trees}`: gradient boosting of decision trees, by LightGBM.

G. Ke et al., *LightGBM: A Highly Efficient Gradient Boosting Decision Tree* (NeurIPS 2017).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from penstock.contracts.errors import Invalid
from penstock.contracts.measures import Task
from penstock.contracts.pipeline import BoostedTrees, Pipeline
from penstock.modelkit.boosting import Plan, Split, boost
from penstock.modelkit.decision import probabilities
from penstock.modelkit.family import Description, Epoch, Family, Part, Prepared
from penstock.modelkit.features import Features, Inputs, Value
from penstock.modelkit.graph import Array, Graph
from penstock.modelkit.intervals import ordered
from penstock.modelkit.preprocessing import Category
from penstock.modelkit.tree_rows import CHUNK, TreeRows
from penstock.modelkit.trees import Columns, Tree, compile_trees, read_trees

IN_MEMORY = 64_000_000  # bytes of a part's matrix that may be in memory
SIGNS = {"increasing": 1, "decreasing": -1}
HELD = {"increasing": "never falling with", "decreasing": "never rising with"}
LIMITS = (
    "Between two thresholds its answer stands still, and beyond the least and the greatest value of"
    " training it stays what it is there: it continues no trend.",
)


@dataclass(frozen=True)
class TrainedTrees:
    """LightGBM's model as text, and the scale of a regression's target."""

    text: str
    columns: Columns
    task: Task
    outputs: int
    scale: tuple[float, float]  # offset and spread; 0 and 1 where there are classes
    history: tuple[Epoch, ...]
    description: Description = field(compare=False)
    bounds: tuple[str, ...] = ()  # text of each quantile's model

    @property
    def trees(self) -> tuple[Tree, ...]:
        return self.forests[0]

    @cached_property
    def forests(self) -> tuple[tuple[Tree, ...], ...]:
        """Trees of the model, then those of each quantile."""
        return tuple(map(read_trees, (self.text, *self.bounds)))

    def predict(self, inputs: Inputs) -> Array:
        count = len(np.asarray(next(iter(inputs.values()))))

        def of(text: str) -> Array:
            booster = lightgbm.Booster(model_str=text)
            found = [
                np.asarray(
                    booster.predict(_matrix(inputs, slice(at, at + CHUNK)), raw_score=True, num_threads=1)
                )
                for at in range(0, max(1, count), CHUNK)
            ]
            return np.concatenate(found).reshape(count, booster.num_model_per_iteration())

        scores = of(self.text)
        if self.task == "regression":
            offset, spread = self.scale
            bounds = [of(text) for text in self.bounds]
            in_order = np.sort(np.concatenate(bounds, axis=1), axis=1) if bounds else scores[:, :0]
            return np.concatenate([scores, in_order], axis=1) * spread + offset
        if self.task == "binary":
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        answers: Array = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
        return answers

    def compile(self, graph: Graph, inputs: Mapping[str, str]) -> str:
        scores, *bounds = (
            compile_trees(
                graph,
                trees,
                self.columns,
                inputs.get("raw"),
                inputs.get("buckets"),
                outputs=self.outputs,
                offset=self.scale[0],
                spread=self.scale[1],
            )
            for trees in self.forests
        )
        if bounds:
            return ordered(graph, graph.op("Concat", scores, *bounds, axis=1))
        return scores if self.task == "regression" else probabilities(graph, scores, self.task)

    def digest(self) -> str:
        digest = hashlib.sha256(f"{self.task} {self.outputs} {self.scale!r}".encode())
        for trees in self.forests:
            for tree in trees:
                digest.update(tree.content())
        return f"sha256:{digest.hexdigest()}"

    def describe(self) -> Description:
        return self.description


class BoostedTreesFamily:
    spec = BoostedTrees

    def inputs(self, features: Features) -> dict[str, Value]:
        """Raw numbers, and each category's bucket."""
        found = {"raw": features.numbers(), "buckets": features.categories()}
        return {name: value for name, value in found.items() if value}

    def fit(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        *,
        checkpoint: Path | None = None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> TrainedTrees:
        spec, trainer = pipeline.model, pipeline.trainer
        assert isinstance(spec, BoostedTrees)
        columns = _columns(prepared)
        plan = Plan(
            task=pipeline.target.type,
            parameters=_parameters(spec, pipeline, prepared),
            categories=columns.categories,
            rounds=spec.rounds_per_epoch,
            epochs=trainer.epochs,
            stopping=trainer.early_stopping,
            spread=prepared.scale()[1],
        )
        training, validation = (
            _split(pipeline, prepared, part) for part in (prepared.train, prepared.validation)
        )
        text, history = boost(plan, training, validation, checkpoint=checkpoint, on_epoch=on_epoch)
        _check(text, spec, len(training.labels))
        bounds = []
        for quantile in pipeline.target.quantiles or ():
            asked = replace(
                plan,
                parameters={**plan.parameters, "objective": "quantile", "alpha": quantile},
                quantile=quantile,
            )
            own = checkpoint and checkpoint.with_name(f"{checkpoint.name}-{quantile:g}")
            found, _ = boost(asked, training, validation, checkpoint=own)
            _check(found, spec, len(training.labels))
            bounds.append(found)
        return TrainedTrees(
            text=text,
            columns=columns,
            task=plan.task,
            outputs=plan.parameters.get("num_class", 1),
            scale=prepared.scale(),
            history=history,
            description=_description(spec, plan, text, len(history), prepared),
            bounds=tuple(bounds),
        )


def learning_rate(spec: BoostedTrees, rows: int) -> float:
    """The file's, or one with which 300 rounds are about enough for so many training rows."""
    return spec.learning_rate or round(float(np.clip(0.03 * (rows / 1000) ** 0.3, 0.03, 0.1)), 4)


def _parameters(spec: BoostedTrees, pipeline: Pipeline, prepared: Prepared) -> dict[str, Any]:
    """LightGBM's."""
    task, columns = pipeline.target.type, _columns(prepared)
    named = spec.model_dump(
        include={"num_leaves", "min_data_in_leaf", "lambda_l2", "max_bin", "max_cat_to_onehot"}
    )
    found = {
        "objective": task,
        **named,
        "learning_rate": learning_rate(spec, len(prepared.train.rows)),
        "seed": pipeline.training.seed,  # of the rows that bins are made from, where there are many
    }
    if task == "multiclass":
        found["num_class"] = len(prepared.signature.classes)
    if spec.monotone:
        ways = [SIGNS.get(spec.monotone.get(name, ""), 0) for name in prepared.signature.inputs.numbers]
        found["monotone_constraints"] = [*ways, *[0] * len(columns.sizes)]
    return found


def _check(text: str, spec: BoostedTrees, rows: int) -> None:
    """Raises Invalid where no tree has a split."""
    if not re.search(r"^split_feature=\d", text, re.MULTILINE):
        raise Invalid(
            f"no feature divides the {rows} training rows into parts of {spec.min_data_in_leaf} rows or"
            " more that differ in the target",
            where="model.min_data_in_leaf",
            remedy="Lower it, or name features that vary",
        )


def _columns(prepared: Prepared) -> Columns:
    fitted = prepared.preprocessing
    sizes = tuple(len(part.counts) for part in fitted.strings if isinstance(part, Category))
    return Columns(len(fitted.numbers), sizes)


def _matrix(inputs: Inputs, rows: slice | list[int] = slice(None)) -> Array:
    """float64 [N, columns] of these rows: numbers, then buckets."""
    parts = [np.asarray(inputs[name])[rows] for name in ("raw", "buckets") if name in inputs]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=1)


def _split(pipeline: Pipeline, prepared: Prepared, part: Part) -> Split:
    labels, weights = part.rows.labels, part.rows.weights
    if pipeline.target.type == "regression":
        offset, spread = prepared.scale()
        labels = (labels - offset) / spread
    elif pipeline.trainer.class_weights == "balanced":
        counts = np.bincount(prepared.train.rows.labels, minlength=len(prepared.signature.classes))
        of_class = (len(prepared.train.rows) / (len(counts) * counts))[labels]
        weights = of_class if weights is None else weights * of_class
    columns = sum(np.asarray(values).shape[1] for values in part.inputs.values())
    rows = TreeRows(len(part.rows), lambda rows: _matrix(part.inputs, rows))
    return Split(rows if 8 * columns * len(rows) > IN_MEMORY else rows[:], labels, weights)


def _description(spec: BoostedTrees, plan: Plan, text: str, epochs: int, prepared: Prepared) -> Description:
    trees = text.count("\nTree=")
    held = [f"{HELD[way]} `{name}`" for name, way in spec.monotone.items()]
    gains = lightgbm.Booster(model_str=text).feature_importance("gain")
    names = (*prepared.signature.inputs.numbers, *prepared.signature.inputs.strings)
    return Description(
        kind=f"boosted trees, {trees} of at most {spec.num_leaves} leaves{', '.join(['', *held])}",
        training=(
            f"Trained {epochs} of at most {plan.epochs} epochs of {plan.rounds} rounds, learning rate"
            f" {plan.parameters['learning_rate']:g}"
        ),
        library="LightGBM",
        importance=dict(zip(names, (gains / gains.sum()).tolist(), strict=True)),
        limits=LIMITS,
    )


FAMILY: Family = BoostedTreesFamily()
