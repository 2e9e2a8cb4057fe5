"""A prediction by entity or by fields: values become the tensors of the version that is served, and
its answer gets names again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from penstock.contracts.errors import Invalid, NotFound
from penstock.feature_store.v1 import feature_store_pb2
from penstock.inference.v1 import inference_pb2
from penstock_inference.record.tensors import Tensor
from penstock_inference.serving.serving import Model

Given = Mapping[str, float | str | bool | None]

_SAID: Final = {"number": "a number", "text": "a text", "boolean": "a boolean"}
_WANTED: Final = {"number": "number", "category": "text", "text": "text", "boolean": "boolean"}


@dataclass(frozen=True)
class Row:
    """One row in the order of the version's inputs."""

    numbers: tuple[float | None, ...]
    strings: tuple[str, ...]


def find_model(models: Mapping[str, Model], pipeline: str) -> Model:
    """The version that `pipeline` serves. Raises NotFound."""
    if model := models.get(pipeline):
        return model
    raise NotFound(f"no pipeline {pipeline!r} is served", remedy=_did_you_mean(pipeline, models, "Served"))


def row_of(model: Model, given: Given) -> Row:
    """One row from features by name; what is not given is missing. Raises Invalid for an unknown
    name or a value of another type.
    """
    for name, value in given.items():
        if name not in model.types:
            raise Invalid(
                f"{model.pipeline} has no feature {name!r}",
                where=name,
                remedy=_did_you_mean(name, model.types, "Features"),
            )
        wanted = _WANTED[model.types[name]]
        if value is not None and _kind(value) != wanted:
            raise Invalid(f"must be {_SAID[wanted]}, this is {_SAID[_kind(value)]}: {value!r}", where=name)
    inputs = model.package.signature.inputs
    numbers = tuple(_number(given.get(name)) for name in inputs.numbers)
    return Row(numbers, tuple(_text(given.get(name)) for name in inputs.strings))


def given_by(fields: inference_pb2.Fields) -> Given:
    return {name: plain(value) for name, value in fields.fields.items()}


def plain(value: inference_pb2.Value | feature_store_pb2.Value) -> float | str | bool | None:
    """A protocol value as Python's; none set is missing."""
    match value.WhichOneof("kind"):
        case "number":
            return value.number
        case "text":
            return value.text
        case "boolean":
            return value.boolean
        case _:
            return None


def given_by_store(model: Model, entity: str, answer: feature_store_pb2.GetOnlineFeaturesResponse) -> Given:
    """Feature values of one entity. Raises NotFound when the store has none of it."""
    found = answer.entities[0] if answer.entities else None
    if found is None or found.status != feature_store_pb2.EntityFeatures.STATUS_FOUND:
        expired = found is not None and found.status == feature_store_pb2.EntityFeatures.STATUS_EXPIRED
        why = "its newest event is too old" if expired else "the feature store has no event of it"
        raise NotFound(
            f"{model.pipeline} has no {model.package.pipeline.entity} {entity!r}: {why}", where=entity
        )
    values = dict(zip(answer.fields, map(plain, found.values), strict=True))
    return {name: values[reference] for name, reference in model.references.items()}


def response_of(
    model: Model, prediction: str, answers: Mapping[str, Tensor]
) -> inference_pb2.PredictResponse:
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
    if tensor := answers.get("value"):
        response.value = float(tensor.values[0])
    return response


def _kind(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _number(value: float | str | bool | None) -> float | None:
    return float(value) if value is not None else None


def _text(value: float | str | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value is not None else ""


def _did_you_mean(name: str, known: Iterable[str], label: str) -> str:
    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=1):
        return f"Did you mean {near[0]!r}?"
    return f"{label}: {', '.join(names)}" if names else "Train and promote one first: see `penstock models`"
