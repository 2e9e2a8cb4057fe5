"""Content of a model package: its files as typed values, and whether they fit one another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.contracts.dataplane import MAX_NUMBER
from penstock.contracts.errors import Invalid
from penstock.contracts.events import StudyReference, TrainingSet
from penstock.contracts.pipeline import Pipeline

PIPELINE = "pipeline.json"
SIGNATURE = "signature.json"
TRAINING_SET = "training_set.json"
PROFILE = "profile.json"
CURVES = "curves.json"
EXPLANATION = "explanation.json"
ORIGIN = "origin.json"
STUDY = "study.json"


class Part(BaseModel):
    """Base of typed parts. An unknown key is passed over: a newer trainer may write more. Numbers
    are finite: JSON has no NaN.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


# -- signature.json: how to call the graph ---------------------------------------------------------


class Inputs(Part):
    """Feature names in tensor order. A tensor without features is absent from the graph."""

    numbers: tuple[str, ...] = ()  # Columns of `numbers`, FP64 [N, n]; missing is NaN
    # Columns of `strings`, BYTES [N, m]; missing is "". A boolean is "true" or "false".
    strings: tuple[str, ...] = ()


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
    # `probabilities` FP32 [N, k] or `value` FP32 [N, 1], and `decision` BYTES [N, 1].
    outputs: dict[str, Output]
    # Names of the columns of `probabilities`, and values of `decision`; empty for regression.
    classes: tuple[str, ...] = ()
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
    edges: tuple[float, ...] = ()  # Inner histogram edges, rising: quantiles of the training split.
    counts: tuple[int, ...] = ()  # Rows in each of the len(edges) + 1 bins [edge, next edge)


class StringProfile(Part):
    kind: Literal["string"] = "string"
    rows: int = Field(ge=0)
    missing: int = Field(ge=0)
    # Rows by value, of the most frequent values; none for free text.
    values: dict[str, int] = Field(default_factory=dict)
    other: int = Field(default=0, ge=0)  # Rows whose value is not listed


class Probes(Part):
    """Rows drawn from the profile, no person's own, and the graph's answers to them: a loaded model
    must answer the same.
    """

    # Rows in the order of `signature.inputs.numbers`; None is NaN. Empty without number inputs.
    numbers: tuple[tuple[float | None, ...], ...] = ()
    # Rows in the order of `signature.inputs.strings`. Empty without string inputs.
    strings: tuple[tuple[str, ...], ...] = ()
    # Expected rows by name of the output.
    outputs: dict[str, tuple[tuple[float, ...], ...] | tuple[tuple[str, ...], ...]]
    # Largest absolute difference of a number; text must be equal.
    tolerance: float = Field(default=1e-6, ge=0)


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


class TrainingPace(Part):
    """Figures of all epochs together. Shares are of their time; `step_s` is a step's mean. On a GPU
    `gpu_share` is the share in which a step was under way there, `gpu_bytes` the most memory of one.
    """

    workers: int = Field(ge=1)
    rows_per_s: float
    step_s: float
    data_share: float
    communication_share: float
    compute_share: float
    gpu_share: float | None = None
    gpu_bytes: int | None = None
    bottleneck: str  # The part that takes most of the time, in words


class Curves(Part):
    metric: str  # Name of the metric that `validation_metric` holds
    points: tuple[CurvePoint, ...]
    pace: TrainingPace | None = None  # Of a package from before it was measured, or without epochs


# -- explanation.json, where there is one: what the family shows of a model ------------------------


Drawn = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]  # A picture's axis has an end


class Bar(Part):
    name: str
    value: Drawn  # Below 0 it goes to the left


class Bars(Part):
    """Named values side by side, in the order given: words that speak for and against, say."""

    kind: Literal["bars"] = "bars"
    title: str
    about: str  # Sentences: what is shown, of which rows
    axis: str  # Name of the values, with their unit
    bars: tuple[Bar, ...] = Field(min_length=1, max_length=60)


class Series(Part):
    name: str
    shares: tuple[Drawn, ...]  # Of its rows in each of the len(edges) - 1 bins


class Histogram(Part):
    """Distributions on one axis: errors of normal and of other rows, say."""

    kind: Literal["histogram"] = "histogram"
    title: str
    about: str
    axis: str
    edges: tuple[Drawn, ...] = Field(min_length=2, max_length=201)  # Rising
    series: tuple[Series, ...] = Field(min_length=1, max_length=8)
    # Places on the axis by name: a threshold
    marks: dict[str, Drawn] = Field(default_factory=dict, max_length=7)

    @model_validator(mode="after")
    def _a_share_a_bin(self) -> Self:
        if any(len(one.shares) != len(self.edges) - 1 for one in self.series):
            raise ValueError("each series must have one share a bin")
        return self


Picture = Annotated[Bars | Histogram, Field(discriminator="kind")]


class Explanation(Part):
    """Aggregates only: a package is read by more people than its training rows are."""

    gain: dict[str, Drawn] = Field(default_factory=dict)  # Shares of 1 by feature; of trees
    pictures: tuple[Picture, ...] = Field(default=(), max_length=8)


# -- origin.json, where the model was made elsewhere -----------------------------------------------


class Origin(Part):
    imported_by: str  # A typed name
    imported_from: str  # Name of the file
    original_digest: str  # `sha256:…` of the file as it came
    audit_rows: Literal["not known whether it was trained on the audit rows"] = (
        "not known whether it was trained on the audit rows"
    )


# -- together --------------------------------------------------------------------------------------


_Check = tuple[object, str, str]  # what is wrong where it is true, a sentence, the file


@dataclass(frozen=True)
class Parts:
    """Everything in a package besides its graph."""

    pipeline: Pipeline  # Effective: the file as applied, with the run's overrides
    signature: ModelSignature
    metrics: dict[str, float]  # Of the validation split
    training_set: TrainingSet
    profile: Profile
    curves: Curves
    model_card: str
    explanation: Explanation | None = None
    origin: Origin | None = None
    study: StudyReference | None = None  # The tuning study whose trial the run repeated

    def check(self) -> None:
        """Compares the parts with one another. Raises Invalid for the first that does not fit."""
        for wrong, sentence, where in (*self._graph(), *self._probes()):
            if wrong:
                raise Invalid(sentence, where=where)

    def _graph(self) -> tuple[_Check, ...]:
        inputs, outputs, classes = self.signature.inputs, self.signature.outputs, self.signature.classes
        named, declared = self.training_set.pipeline, self.pipeline.pipeline
        fields = Counter((*inputs.numbers, *inputs.strings))
        features = ", ".join(sorted(fields.keys() ^ self.pipeline.resolved_features().keys()))
        profiled = ", ".join(sorted(fields.keys() ^ self.profile.features.keys()))
        regression = self.signature.target.type == "regression"
        columns = outputs["probabilities"].columns if "probabilities" in outputs else None
        return (
            (named != declared, f"names pipeline {named!r}, not {declared!r}", TRAINING_SET),
            (
                set(fields.values()) != {1},
                "inputs must name at least one feature, and each once",
                SIGNATURE,
            ),
            (features, f"inputs and the pipeline's features differ in {features}", SIGNATURE),
            (profiled, f"the profile and the inputs differ in {profiled}", PROFILE),
            (regression and "value" not in outputs, "a regression has the output `value`", SIGNATURE),
            (
                not regression and len(classes) != columns,
                "a classifier has the output `probabilities` with one column a class",
                SIGNATURE,
            ),
        )

    def _probes(self) -> tuple[_Check, ...]:
        inputs, probes = self.signature.inputs, self.profile.probes
        sides = (("numbers", inputs.numbers, probes.numbers), ("strings", inputs.strings, probes.strings))
        rows = {len(values) for values in probes.outputs.values()}
        rows |= {len(values) for _, fields, values in sides if fields}
        return (
            *(
                (
                    any(len(row) != len(fields) for row in values),
                    f"probes.{name}: a row must have {len(fields)} values",
                    PROFILE,
                )
                for name, fields, values in sides
            ),
            (
                len(rows) != 1 or rows == {0} or set(probes.outputs) != set(self.signature.outputs),
                "probes need the same rows, at least one, for every input and every output of the signature",
                PROFILE,
            ),
        )
