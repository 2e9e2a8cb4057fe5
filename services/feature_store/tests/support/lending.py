"""A pipeline with labels of its own source, and records for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from penstock.contracts.pipeline import Pipeline
from penstock_feature_store.lake.batches import Received, source_schema, table_of
from penstock_feature_store.lake.lake import SourceLake

EPOCH = datetime(2025, 3, 1, tzinfo=UTC)


def credit_risk(**changes: Any) -> Pipeline:
    """Applications, and outcomes that come later."""
    spec: dict[str, Any] = {
        "version": 1,
        "pipeline": "credit-risk",
        "entities": {"applicant": {"key": "applicant_id"}},
        "sources": {
            "applications": {
                "entity": "applicant",
                "id": "application_id",
                "timestamp": "submitted_at",
                "fields": {
                    "income": {"type": "number"},
                    "purpose": {"type": "category"},
                    "Married": {"type": "boolean"},
                    "country_y": {"type": "category"},
                    "sex": {"type": "category", "protected": True},
                },
            },
            "outcomes": {
                "entity": "applicant",
                "id": "outcome_id",
                "timestamp": "observed_at",
                "fields": {"defaulted": {"type": "boolean"}},
            },
        },
        "features": {
            name: {"from": f"applications.{name}"} for name in ("income", "purpose", "Married", "country_y")
        },
        "targets": {"default": {"from": "outcomes.defaulted", "type": "binary"}},
        "training": {"max_age": "30d"},
        "audit": {"groups": {"sex": {}}},
    }
    return Pipeline.model_validate(spec | changes)


def record(
    offset: int,
    entity: str,
    minutes: float,
    fields: Mapping[str, Any],
    *,
    event_id: str | None = None,
    event_offset: int | None = None,
) -> Received:
    """One message of a records topic, its event `minutes` after EPOCH."""
    time = (EPOCH + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    value = {
        "id": event_id or f"ev-{offset}",
        "entity": entity,
        "time": time,
        "partition": 0,
        "offset": offset if event_offset is None else event_offset,
        "traceparent": None,
        "fields": dict(fields),
    }
    return Received(offset, 1_740_000_000_000 + offset, orjson.dumps(value))


def append(
    lake: SourceLake, pipeline: Pipeline, source: str, received: list[Received], *, partition: int = 0
) -> None:
    first = lake.positions().get(partition, 0)
    lake.append(
        partition, first, received[-1].offset + 1, table_of(received, source_schema(pipeline.sources[source]))
    )
