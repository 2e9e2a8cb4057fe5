"""Online features of one entity, as the values of a row."""

from __future__ import annotations

from datetime import UTC, datetime

from penstock.contracts.durations import format_duration
from penstock.contracts.errors import NotFound
from penstock.feature_store.v1 import feature_store_pb2
from penstock.serving.model import Model
from penstock.serving.rows import FeatureValue, plain


def features_from_store(
    model: Model, entity: str, answer: feature_store_pb2.GetOnlineFeaturesResponse, now: datetime
) -> dict[str, FeatureValue]:
    """Feature values of one entity. Raises NotFound when the store has none of it."""
    found = answer.entities[0] if answer.entities else None
    if found is None or found.status != feature_store_pb2.EntityFeatures.STATUS_FOUND:
        pipeline = model.package.pipeline
        if found is not None and found.status == feature_store_pb2.EntityFeatures.STATUS_EXPIRED:
            newest, limit = found.time.ToDatetime(UTC), format_duration(pipeline.training.max_age)
            raise NotFound(
                f"the newest event of {pipeline.entity} {entity!r} is of {newest:%Y-%m-%d},"
                f" {(now - newest).days} days ago; `training.max_age`, {limit}, lets nothing older answer",
                where=entity,
                remedy=(
                    "Publish a newer event of it, or give the values with --input; where such old ones are"
                    " right, raise `training.max_age` in the pipeline file, and its sources' `retention` to"
                    " no less, and apply it"
                ),
            )
        raise NotFound(
            f"{model.pipeline} has no {pipeline.entity} {entity!r}: the feature store has no event of it",
            where=entity,
        )
    values = dict(zip(answer.fields, map(plain, found.values), strict=True))
    return {name: values[reference] for name, reference in model.references.items()}
