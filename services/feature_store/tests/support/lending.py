"""A pipeline with labels of its own source, and records for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from penstock.contracts.pipeline import Pipeline
from penstock.testing import lending
from penstock_feature_store.lake.batches import Received, source_schema, table_of
from penstock_feature_store.lake.lake import SourceLake

EPOCH = datetime(2025, 3, 1, tzinfo=UTC)


def credit_risk(**changes: Any) -> Pipeline:
    """Lending whose outcomes come later, from a source of their own, with fields of awkward names."""
    applications = lending.spec()["sources"]["applications"]
    del applications["fields"]["defaulted"]
    applications["fields"] |= {"Married": {"type": "boolean"}, "country_y": {"type": "category"}}
    outcomes = {
        "entity": "applicant",
        "id": "outcome_id",
        "timestamp": "observed_at",
        "fields": {"defaulted": {"type": "boolean"}},
    }
    features = ("income", "purpose", "Married", "country_y")
    usual = {
        "pipeline": "credit-risk",
        "sources": {"applications": applications, "outcomes": outcomes},
        "features": {name: {"from": f"applications.{name}"} for name in features},
        "targets": {"default": {"from": "outcomes.defaulted", "type": "binary"}},
        "training": {"max_age": "30d"},
        "audit": {"groups": {"sex": {}}},
    }
    return lending.pipeline(**usual | changes)


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
