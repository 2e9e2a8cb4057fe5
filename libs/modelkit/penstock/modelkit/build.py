"""Builds a model from a pipeline and the two parts of a training set that a trainer may see: fit,
train, compile, check.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from penstock.contracts.dataplane import MAX_NUMBER
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Ensemble, Pipeline
from penstock.measures.scores import Scores
from penstock.modelkit import metrics
from penstock.modelkit.decision import choose_threshold
from penstock.modelkit.family import Description, Epoch, Part, Prepared, Spreadable, Trained, family_of
from penstock.modelkit.features import Transform, pieces, transform
from penstock.modelkit.graph import Array, Runner
from penstock.modelkit.mapped import in_files
from penstock.modelkit.model import TOLERANCE, check_parity, compile_model, run
from penstock.modelkit.preprocessing import bins, fit
from penstock.modelkit.profile import describe, draw_probes, probes
from penstock.modelkit.rows import RowSource, classes, read, signature
from penstock.modelkit.stored import give_back, opened
from penstock.packages.parts import ModelSignature, Profile

if TYPE_CHECKING:
    from penstock.modelkit.training import Loop

MIN_TRAIN_ROWS = 20
MIN_VALIDATION_ROWS = 5


@dataclass(frozen=True, slots=True)
class Built:
    """A trained model, all of it that goes into the package: the ONNX graph, measures of the
    validation split with `train_loss` and `validation_loss` (`metrics.plain_losses`), the threshold
    from which two classes' answer is positive.

    `parity` is the largest difference between the family's library and ONNX Runtime over all rows,
    `weights` the digest of all that was learned; `sampled` the training rows that features were fitted
    to and the profile describes, `judged` the validation rows that measures are of, where they are not
    all.
    """

    model: bytes
    signature: ModelSignature
    metrics: dict[str, float]
    history: tuple[Epoch, ...]
    profile: Profile
    threshold: float | None
    parity: float
    weights: str
    description: Description
    sampled: int | None = None
    judged: int | None = None


def build(
    pipeline: Pipeline,
    train_part: Path,
    validation_part: Path,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_stage: Callable[[str], None] = lambda stage: None,
    loop: Loop | None = None,
    scratch: Path | None = None,
) -> Built:
    """Trains on one Parquet file, chooses on the other, and checks the graph on both.

    `loop`: instead of the family's own, for one that has `workers`. `scratch`: a folder for what a
    network learns from, instead of memory; gone in the end. Raises Invalid, in a sentence for who wrote
    the pipeline file, where nothing can be learned; NotAlike where graph and model differ; Unavailable
    where the disk is full.
    """
    on_stage("fitting")
    with in_files(scratch, pipeline) as transform:
        prepared = prepare(pipeline, train_part, validation_part, transform)
        give_back()
        on_stage("training")
        family = family_of(pipeline.model)
        fit = family.fit if loop is None else partial(cast(Spreadable, family).fit, loop=loop)
        model = fit(pipeline, prepared, checkpoint=checkpoint, on_epoch=on_epoch)
        give_back()
        on_stage("packaging")
        return finish(pipeline, prepared, model)


def prepare(
    pipeline: Pipeline, train_part: Path, validation_part: Path, transform: Transform = transform
) -> Prepared:
    """Reads both parts, fits on the first, and transforms both for the pipeline's family.

    The result depends on the files, the target, `features` and the family, and not on how that is
    trained: a caller may keep it from run to run. `transform`: instead of the usual one, one that
    keeps what it computed. Raises Invalid where nothing can be learned.
    """
    named = signature(pipeline, classes(train_part))
    whole = isinstance(pipeline.model, Ensemble)  # its members are given raw values
    training, validation = (
        read(part, named, pipeline) if whole else opened(part, named, pipeline)
        for part in (train_part, validation_part)
    )
    check(pipeline, named, training, validation)
    return treated(pipeline, named, training, validation, transform)


def treated(
    pipeline: Pipeline,
    named: ModelSignature,
    training: RowSource,
    validation: RowSource,
    transform: Transform = transform,
) -> Prepared:
    """Fits the treatment of the features and transforms both parts. Raises Invalid where a feature
    cannot be learned from.
    """
    fitted = fit(
        pipeline, named, training.sampled(), bins=bins(len(training)) if pipeline.model.pieces else 0
    )
    wanted = family_of(pipeline.model).inputs
    parts = (Part(rows, transform(fitted, rows, wanted)) for rows in (training, validation))
    return Prepared(named, fitted, *parts)


def finish(pipeline: Pipeline, prepared: Prepared, model: Trained) -> Built:
    """Compiles, checks the graph on every row, and describes the rows. Raises NotAlike."""
    fitted, (_, spread) = prepared.preprocessing, prepared.scale()
    found = checked(pipeline, prepared, model)
    give_back()
    sample = prepared.train.rows.sampled()
    numbers, strings = describe(pipeline, fitted, sample)
    drawn = draw_probes(numbers, strings, fitted, pipeline.training.seed)
    expected = probes(drawn, run(found.model, drawn), fitted, TOLERANCE * max(1.0, spread))
    threshold = found.threshold
    return Built(
        model=found.model,
        signature=prepared.signature,
        metrics=found.metrics if threshold is None else found.metrics | {"threshold": threshold},
        history=tuple(model.history),
        profile=Profile(features=numbers | strings, probes=expected),
        threshold=threshold,
        parity=found.parity,
        weights=model.digest(),
        description=model.describe(),
        sampled=len(sample) if len(sample) < len(prepared.train.rows) else None,
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """A trained model on the validation split: `metrics` as in `Built`, without the threshold."""

    threshold: float | None
    metrics: dict[str, float]
    scores: Scores


@dataclass(frozen=True, slots=True)
class Checked(Judged):
    """Judged by its ONNX graph."""

    model: bytes
    parity: float


def judged(pipeline: Pipeline, prepared: Prepared, model: Trained) -> Judged:
    """Chooses the threshold and measures by the answers of the family's library, with no graph: for a
    model of which nothing is kept.
    """
    learned, answers = (_answers(pipeline, model, part) for part in (prepared.train, prepared.validation))
    labels, threshold = prepared.validation.rows.labels, None
    if pipeline.target.type == "binary":
        threshold = choose_threshold(pipeline.decision, labels, answers["probabilities"][:, 1])
    return _judged(pipeline, prepared, threshold, learned, answers)


def _answers(pipeline: Pipeline, model: Trained, part: Part) -> dict[str, Array]:
    """Answers by output, in a graph's precision: a threshold lies between two numbers of that kind."""
    each = (model.predict(inputs) for _, inputs in pieces(part.inputs, len(part.rows)))
    said: Array = np.concatenate([answers.astype(np.float32) for answers in each])
    if pipeline.target.type != "regression":
        return {"probabilities": said}
    return {"value": said[:, :1], **({"interval": said[:, 1:]} if said.shape[1] > 1 else {})}


def _judged(
    pipeline: Pipeline,
    prepared: Prepared,
    threshold: float | None,
    learned: dict[str, Array],
    answers: dict[str, Array],
) -> Judged:
    """`learned`, `answers`: to the training and the validation rows, as a graph gives them."""
    target, training, validation = pipeline.target.type, prepared.train.rows, prepared.validation.rows
    parts = {"train": (training.labels, learned), "validation": (validation.labels, answers)}
    told = metrics.scores_of(target, validation.labels, answers, threshold)
    return Judged(threshold, metrics.of_scores(told) | metrics.plain_losses(target, parts), told)


def checked(pipeline: Pipeline, prepared: Prepared, model: Trained) -> Checked:
    """Chooses the threshold, compiles, and checks the graph on every row. Raises NotAlike."""
    target, fitted = pipeline.target.type, prepared.preprocessing
    training, validation = prepared.train.rows, prepared.validation.rows
    family, (_, spread) = family_of(pipeline.model), prepared.scale()
    threshold = None
    if target == "binary":
        scores = run(compile_model(fitted, family, model, threshold=0.5), validation)["probabilities"][:, 1]
        threshold = choose_threshold(pipeline.decision, validation.labels, scores)
    graph = compile_model(fitted, family, model, threshold=threshold, abstain=pipeline.decision.abstain)
    content = graph.SerializeToString(deterministic=True)
    runner = Runner(content)
    answers, learned = (run(runner, rows, decisions=False) for rows in (validation, training))
    parity = max(
        check_parity(model.predict(inputs), {name: values[at] for name, values in found.items()}, spread)
        for part, found in ((prepared.validation, answers), (prepared.train, learned))
        for at, inputs in pieces(part.inputs, len(part.rows))
    )
    found = _judged(pipeline, prepared, threshold, learned, answers)
    return Checked(threshold, found.metrics, found.scores, content, parity)


def check(pipeline: Pipeline, named: ModelSignature, training: RowSource, validation: RowSource) -> None:
    """Raises Invalid where there is nothing to learn from."""
    where = f"targets.{named.target.name}"
    for part, rows, least in (
        ("training", training, MIN_TRAIN_ROWS),
        ("validation", validation, MIN_VALIDATION_ROWS),
    ):
        if len(rows) < least:
            raise Invalid(
                f"the {part} split has {len(rows)} rows; at least {least} are needed",
                where=f"split.parts.{'train' if part == 'training' else part}",
                remedy="Publish more labelled events, or give this part a larger share",
            )
        for chunk in rows.chunks(len(rows)):
            for name, column in zip(named.inputs.numbers, chunk.numbers.T, strict=True):
                _check_numbers(column[np.isfinite(column)], part, f"features.{name}")
        if pipeline.target.type == "regression":
            _check_numbers(rows.labels, part, where)
            continue
        present = np.unique(rows.labels)
        if len(present) < 2:
            raise Invalid(
                f"the {part} split has one class only: `{named.classes[present[0]]}` in all {len(rows)} rows",
                where=where,
                remedy="Publish labels of the other class too, or check `positive`",
            )
        absent = [f"`{name}`" for index, name in enumerate(named.classes) if index not in present]
        if absent and part == "training":
            raise Invalid(
                f"the training split has no row of class {', '.join(absent)}",
                where=where,
                remedy="Publish more labels of it",
            )


def _check_numbers(numbers: Array, part: str, where: str) -> None:
    if not (np.abs(numbers) <= MAX_NUMBER).all():  # nor is NaN
        raise Invalid(
            f"the {part} split has a number that is none, or beyond ±{MAX_NUMBER:g}: no model takes it",
            where=where,
            remedy="Start a new run: its training set takes such a value for missing",
        )
