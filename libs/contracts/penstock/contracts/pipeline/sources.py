"""`entities` and `sources`: what is published, and how its events are read."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from penstock.contracts.pipeline.base import Duration, FieldName, Model, Name
from penstock.contracts.pipeline.variants import OneOf

_AHEAD = timedelta(days=1)


class Entity(Model):
    key: FieldName
    """The event's field that names the entity."""


class SourceField(Model):
    """One field of a source's events. Ingest checks it and changes nothing beyond the declared type
    and unit.
    """

    type: Literal["number", "category", "text", "boolean"]
    unit: str | None = None
    """Unit of the number, in words of your own: every value is taken to be in it, so a
    change of it is a new pipeline.
    """
    range: tuple[float, float] | None = None
    """Inclusive bounds, numbers only."""
    values: tuple[str, ...] | None = None
    """The allowed values, categories only."""
    required: bool = False
    on_violation: Literal["reject", "set_missing"] = "reject"
    """Treatment of a value that is of another type or outside its range or values."""
    personal: bool = False
    protected: bool = False
    """Travels for auditing; no model input unless a feature names it."""
    max_length: int = Field(default=10_000, ge=1, le=1_000_000)
    """Characters, text and categories."""


class Json(Model):
    """One JSON object a message, in UTF-8."""

    type: Literal["json"] = "json"


Format = Annotated[Json, OneOf(alone=True)]
"""Ingest decodes each by its file in `penstock_ingest.formats`."""


class Source(Model):
    entity: Name
    id: FieldName
    """The event's field that identifies the event: a repeat within `deduplicate` is dropped."""
    timestamp: FieldName
    """The event's field with the event time: RFC 3339, or seconds since the epoch."""
    at_most_ahead: Duration = Field(default=_AHEAD, exclude_if=lambda said: said == _AHEAD)
    """An event further ahead of the clock is rejected: as its entity's newest it would hide all
    later ones.
    """
    deduplicate: Duration = timedelta(days=7)
    retention: Duration = timedelta(days=400)
    partitions: int = Field(default=2, ge=1, le=64)
    format: Format = Field(default=Json(), exclude_if=lambda said: said == Json())
    """Format of an event."""
    fields: dict[FieldName, SourceField] = Field(min_length=1)
