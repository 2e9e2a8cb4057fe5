"""Prediction by entity or by fields, as messages: feature values in, named outputs back."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.contracts.errors import NotFound
from penstock.feature_store.v1 import feature_store_pb2
from penstock.inference.v1 import inference_pb2
from penstock_inference.serving.model import Model
from penstock_inference.serving.rows import FeatureValue, did_you_mean
from penstock_inference.serving.tensors import Tensor


def find_model(models: Mapping[str, Model], pipeline: str) -> Model:
    """Version that `pipeline` serves. Raises NotFound."""
    if model := models.get(pipeline):
        return model
    raise NotFound(f"no pipeline {pipeline!r} is served", remedy=did_you_mean(pipeline, models, "Served"))


def features_from_fields(fields: inference_pb2.Fields) -> dict[str, FeatureValue]:
    """Feature values of a request by fields."""
    return {name: plain(value) for name, value in fields.fields.items()}


def plain(value: inference_pb2.Value | feature_store_pb2.Value) -> FeatureValue:
    """Converts a protocol value to Python; one that is not set is missing."""
    match value.WhichOneof("kind"):
        case "number":
            return value.number
        case "text":
            return value.text
        case "boolean":
            return value.boolean
        case _:
            return None


def features_from_store(
    model: Model, entity: str, answer: feature_store_pb2.GetOnlineFeaturesResponse
) -> dict[str, FeatureValue]:
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
    if tensor := answers.get("value"):
        response.value = float(tensor.values[0])
    return response
