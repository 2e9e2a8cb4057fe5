"""Prediction as messages: feature values in, a row of the model's input, named outputs back."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from penstock.contracts.errors import Conflict, Invalid, NotFound
from penstock.inference.v1 import inference_pb2
from penstock.serving.confidence import Edges
from penstock.serving.model import Model
from penstock.serving.protocol.tensors import Tensor

if TYPE_CHECKING:
    from penstock.feature_store.v1 import feature_store_pb2

FeatureValue = float | str | bool | None  # None is missing

MOST_LISTED: Final = 100  # names in an error, which travels in a call's trailers

_TYPES: Final = {"number": float, "category": str, "text": str, "boolean": bool}  # by a field's type
_NAMES: Final = {float: "a number", str: "a text", bool: "a boolean"}


@dataclass(frozen=True)
class Row:
    """Row in the order of the version's inputs."""

    numbers: tuple[float | None, ...]
    strings: tuple[str, ...]


def find_model(models: Mapping[str, Model], pipeline: str) -> Model:
    """Version that `pipeline` serves. Raises NotFound."""
    if model := models.get(pipeline):
        return model
    raise NotFound(f"no pipeline {pipeline!r} is served", remedy=_did_you_mean(pipeline, models, "Served"))


def stopped(pipeline: str, why: str) -> Conflict:
    """Answer of a pipeline whose file says `serving.stopped`."""
    return Conflict(f"{pipeline} is stopped: {why}", remedy=f"penstock resume {pipeline} has it answer again")


def plain(value: inference_pb2.Value | feature_store_pb2.Value) -> FeatureValue:
    """Converts a protocol value to Python; one that is not set is missing."""
    kind = value.WhichOneof("kind")
    found: FeatureValue = getattr(value, kind) if kind else None
    return found


def row_of(model: Model, values: Mapping[str, FeatureValue]) -> Row:
    """Orders feature values by name into a row; a feature without a value is missing, as is one whose
    value is a `missing` mark of its source. Raises Invalid for no name at all, an unknown one, or a
    value of another type.
    """
    if not values:
        raise Invalid(f"{model.pipeline} is given no input", remedy=f"Give some of: {_listed(model.types)}")
    given: dict[str, FeatureValue] = {}
    for name, value in values.items():
        if name not in model.types:
            raise _no_input(model, name)
        wanted = _TYPES[model.types[name]]
        given[name] = None if value in model.marks[name] else value
        if given[name] is not None and type(value) is not wanted:
            raise Invalid(f"must be {_NAMES[wanted]}, this is {_NAMES[type(value)]}: {value!r}", where=name)
    inputs = model.package.signature.inputs
    numbers = tuple(_number(given.get(name)) for name in inputs.numbers)
    return Row(numbers, tuple(_text(given.get(name)) for name in inputs.strings))


def response_of(
    model: Model, prediction: str, answers: Mapping[str, Tensor]
) -> inference_pb2.PredictResponse:
    """Response for one row: the outputs by name, and the version that gave them."""
    signature = model.package.signature
    response = inference_pb2.PredictResponse(
        prediction=prediction, digest=model.digest, generation=model.generation
    )
    if tensor := answers.get("decision"):
        response.decision = str(tensor.values[0])
    if tensor := answers.get("probabilities"):
        response.probabilities.update(
            {name: float(value) for name, value in zip(signature.classes, tensor.values, strict=True)}
        )
        if model.edges:
            (response.confidence,) = model.edges.confidences([[float(value) for value in tensor.values]])
            _say_edges(response, model.edges, signature.classes)
    if tensor := answers.get("value"):
        response.value = float(tensor.values[0])
    if tensor := answers.get("interval"):
        response.interval.lower, response.interval.upper = map(float, tensor.values)
    return response


def _say_edges(response: inference_pb2.PredictResponse, edges: Edges, classes: tuple[str, ...]) -> None:
    if edges.threshold is not None:
        response.positive, response.threshold = classes[1], edges.threshold
    if edges.abstains:
        response.abstains.lower, response.abstains.upper = edges.abstains


def _no_input(model: Model, name: str) -> Invalid:
    pipeline = model.package.pipeline
    read = {reference.partition(".")[2] for reference in model.references.values()}
    fields = [source.fields[name] for source in pipeline.sources.values() if name in source.fields]
    if name in (*pipeline.targets, pipeline.target.source_field.partition(".")[2]):
        said = f"this is what {model.pipeline} predicts"
    elif name in read or not fields:  # a feature by another name, or nothing known
        unknown = f"{model.pipeline} has no feature {name!r}"
        return Invalid(unknown, where=name, remedy=_did_you_mean(name, model.types, "Features"))
    else:
        protected = "protected, and " if any(field.protected for field in fields) else ""
        said = f"this is {protected}no input of {model.pipeline}"
    return Invalid(said, where=name, remedy="Leave it out")


def _did_you_mean(name: str, known: Iterable[str], label: str) -> str:
    # The nearest known name, else all of them after `label`.
    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=1):
        return f"Did you mean {near[0]!r}?"
    return f"{label}: {_listed(names)}" if names else "Train and promote one first: see `penstock models`"


def _listed(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = len(listed) - MOST_LISTED
    return ", ".join(listed[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _number(value: FeatureValue) -> float | None:
    return float(value) if value is not None else None


def _text(value: FeatureValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value is not None else ""
