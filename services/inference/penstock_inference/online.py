"""Online features of one entity, as the values of a row."""

from __future__ import annotations

from penstock.contracts.errors import NotFound
from penstock.feature_store.v1 import feature_store_pb2
from penstock.serving.model import Model
from penstock.serving.rows import FeatureValue, plain


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
