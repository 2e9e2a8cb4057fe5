"""Content of a model package: its files as typed values, and whether they fit one another."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from penstock.contracts.errors import Invalid
from penstock.contracts.events import TrainingSet
from penstock.contracts.pipeline import Pipeline

PIPELINE = "pipeline.json"
SIGNATURE = "signature.json"
TRAINING_SET = "training_set.json"
PROFILE = "profile.json"
CURVES = "curves.json"


class Part(BaseModel):
    """Base of typed parts. An unknown key is passed over: a newer trainer may write more. Numbers
    are finite: JSON has no NaN.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


# -- signature.json: how to call the graph ---------------------------------------------------------


class Inputs(Part):
    """Feature names in tensor order. A tensor without features is absent from the graph."""

    numbers: tuple[str, ...] = ()
    """Columns of `numbers`, FP64 [N, n]; missing is NaN."""
    strings: tuple[str, ...] = ()
    """Columns of `strings`, BYTES [N, m]; missing is "". A boolean is "true" or "false"."""


class Output(Part):
    """Output tensor of shape [N, columns]."""

    datatype: Literal["FP32", "FP64", "INT64", "BYTES"]
    columns: int = Field(ge=1)


class TargetSignature(Part):
    name: str
    type: Literal["binary", "multiclass", "regression"]


class ModelSignature(Part):
    """Inputs and outputs of the graph."""

    inputs: Inputs
    outputs: dict[str, Output]
    """`probabilities` FP32 [N, k] or `value` FP32 [N, 1], and `decision` BYTES [N, 1]."""
    classes: tuple[str, ...] = ()
    """Names of the columns of `probabilities`, and values of `decision`; empty for regression."""
    target: TargetSignature


# -- profile.json: what the training split looks like, and rows to probe a loaded model with -------


class NumberProfile(Part):
    kind: Literal["number"] = "number"
    rows: int = Field(ge=0)
    missing: int = Field(ge=0)
    mean: float | None = None
    standard_deviation: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    edges: tuple[float, ...] = ()
    """Inner histogram edges, rising: quantiles of the training split."""
    counts: tuple[int, ...] = ()
    """Rows in each of the len(edges) + 1 bins [edge, next edge)."""


class StringProfile(Part):
    kind: Literal["string"] = "string"
    rows: int = Field(ge=0)
    missing: int = Field(ge=0)
    values: dict[str, int] = Field(default_factory=dict)
    """Rows by value, of the most frequent values; none for free text."""
    other: int = Field(default=0, ge=0)
    """Rows whose value is not listed."""


class Probes(Part):
    """Rows drawn from the profile, no person's own, and the graph's answers to them: a loaded model
    must answer the same.
    """

    numbers: tuple[tuple[float | None, ...], ...] = ()
    """Rows in the order of `signature.inputs.numbers`; None is NaN. Empty without number inputs."""
    strings: tuple[tuple[str, ...], ...] = ()
    """Rows in the order of `signature.inputs.strings`. Empty without string inputs."""
    outputs: dict[str, tuple[tuple[float, ...], ...] | tuple[tuple[str, ...], ...]]
    """Expected rows by name of the output."""
    tolerance: float = Field(default=1e-6, ge=0)
    """Largest absolute difference of a number; text must be equal."""


class Profile(Part):
    features: dict[str, NumberProfile | StringProfile]
    probes: Probes


# -- curves.json: the course of the training -------------------------------------------------------


class CurvePoint(Part):
    epoch: int
    train_loss: float
    validation_loss: float
    validation_metric: float
    learning_rate: float
    elapsed_s: float


class Curves(Part):
    metric: str
    """Name of the metric that `validation_metric` holds."""
    points: tuple[CurvePoint, ...]


# -- together --------------------------------------------------------------------------------------


def check_parts(
    pipeline: Pipeline, signature: ModelSignature, training_set: TrainingSet, profile: Profile
) -> None:
    """Compares the parts with one another. Raises Invalid for the first that does not fit."""
    if training_set.pipeline != pipeline.pipeline:
        raise Invalid(
            f"names pipeline {training_set.pipeline!r}, not {pipeline.pipeline!r}", where=TRAINING_SET
        )
    fields = (*signature.inputs.numbers, *signature.inputs.strings)
    if len(set(fields)) != len(fields) or not fields:
        raise Invalid("inputs must name at least one feature, and each once", where=SIGNATURE)
    if wrong := sorted(set(fields) ^ set(pipeline.resolved_features())):
        raise Invalid(f"inputs and the pipeline's features differ in {', '.join(wrong)}", where=SIGNATURE)
    if wrong := sorted(set(fields) ^ set(profile.features)):
        raise Invalid(f"the profile and the inputs differ in {', '.join(wrong)}", where=PROFILE)
    _check_outputs(signature)
    _check_probes(profile.probes, signature)


def _check_outputs(signature: ModelSignature) -> None:
    if signature.target.type == "regression":
        if "value" not in signature.outputs:
            raise Invalid("a regression has the output `value`", where=SIGNATURE)
        return
    probabilities = signature.outputs.get("probabilities")
    if probabilities is None or len(signature.classes) != probabilities.columns:
        raise Invalid("a classifier has the output `probabilities` with one column a class", where=SIGNATURE)


def _check_probes(probes: Probes, signature: ModelSignature) -> None:
    rows = {len(rows) for rows in probes.outputs.values()}
    for name, fields, values in (
        ("numbers", signature.inputs.numbers, probes.numbers),
        ("strings", signature.inputs.strings, probes.strings),
    ):
        if fields:
            rows.add(len(values))
        if any(len(row) != len(fields) for row in values):
            raise Invalid(f"probes.{name}: a row must have {len(fields)} values", where=PROFILE)
    if len(rows) != 1 or rows == {0} or set(probes.outputs) != set(signature.outputs):
        raise Invalid(
            "probes need the same rows, at least one, for every input and every output of the signature",
            where=PROFILE,
        )
