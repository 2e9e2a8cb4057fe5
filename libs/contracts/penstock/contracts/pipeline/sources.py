"""`entities` and `sources`: what is published, and how its events are read."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from penstock.contracts.pipeline.base import Duration, FieldName, Model, Name
from penstock.contracts.pipeline.variants import OneOf

_AHEAD = timedelta(days=1)

ROW_NUMBER, ROW_CONTENT, PUBLISHING_TIME = "$row_number", "$row_content", "$publishing_time"
ROW_IDS = {ROW_NUMBER: "17-3f9c2a1b", ROW_CONTENT: "2142be18e5286c7b5902-1"}
"""An id of each kind that publishing makes."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone `{name}`; write one as in Europe/Vienna or UTC") from error
    return name


class Entity(Model):
    key: FieldName
    """The event's field that names the entity."""


class SourceField(Model):
    """Field of a source's events. Ingest checks it and changes nothing beyond the declared type
    and unit.
    """

    type: Literal["number", "category", "text", "boolean"]
    column: str | None = Field(
        default=None, alias="from", max_length=1000, exclude_if=lambda said: said is None
    )
    """Column of a published file that holds it, where that has another name, or "" where it has none.
    Events carry the field's own name.
    """
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

    def column_of(self, name: str) -> str:
        """Column of a published file that holds the field of this name."""
        return name if self.column is None else self.column


class Json(Model):
    """JSON object a message, in UTF-8."""

    type: Literal["json"] = "json"


Format = Annotated[Json, OneOf(alone=True)]
"""Format of events, decoded by its file in `penstock.contracts.formats`."""


class Source(Model):
    entity: Name
    id: FieldName
    """The event's field that identifies the event: a repeat within `deduplicate` is dropped."""
    timestamp: FieldName
    """The event's field with the event time: RFC 3339 (see `timezone`), or seconds since the epoch."""
    timezone: Annotated[str, AfterValidator(_known_zone)] | None = Field(
        default=None, exclude_if=lambda said: said is None
    )
    """Zone of an event time without an offset and of a day without a time, as in Europe/Vienna. Left
    out, such an event is rejected.
    """
    missing: tuple[str, ...] = Field(default=(), exclude_if=lambda said: not said)
    """Texts that are read as a missing value in every declared field, as in [NA, "?"]: of an event, and
    of a prediction by fields. An empty text always is.
    """
    columns: dict[FieldName, str] = Field(default_factory=dict, exclude_if=lambda said: not said)
    """Columns of a published file for the id, the entity's key and the timestamp, where those have
    other names there. `publish` writes what the file lacks. `$row_content` is a digest of the row's
    values and a count of equal rows in a file (`2142be18e5286c7b5902-1`, the second one `-2`): an equal
    row is a repeat in whatever order and file it comes, a corrected one is a new row beside the old.
    `$row_number` is the row's number and a digest (`17-3f9c2a1b`): a repeat only at the same place, so
    a file that is sorted anew is all new rows. `$publishing_time` is the time.
    """
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
