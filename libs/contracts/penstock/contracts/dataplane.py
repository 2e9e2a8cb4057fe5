"""The data plane's messages. Many and alike: they are built and read as plain dicts in the hot
path; these types document and test them.

An **event** is what a user publishes: a flat JSON object. Ingest answers each with a record or a
reject, or drops it as a duplicate.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict  # pydantic reads its schema from this one only, before Python 3.12

Value = float | str | bool | None
"""A number is a float, missing is None. Never NaN."""

RejectReason = Literal[
    "not_json",
    "not_an_object",
    "too_large",
    "no_id",
    "no_key",
    "no_timestamp",
    "bad_timestamp",
    "missing_field",
    "unknown_field",
    "wrong_type",
    "not_finite",
    "out_of_range",
    "unknown_value",
    "too_long",
]

Degraded = Literal["no_version", "refused_version", "older_version"]
"""Reasons why an answer at a site is not what it should be: the promoted version is not whole there yet,
or was refused there, and the platform answered; or an older version did.
"""

# Bounds of what ingest accepts: what lies within, every later part of the platform holds and
# computes with. A pipeline file narrows them by `range`, `values`, `max_length`, `at_most_ahead`.

MAX_EVENT_BYTES = 256 * 1024
"""Larger events are rejects."""
MAX_IDENTIFIER = 1_000
"""Characters of an id and of an entity's key."""
MAX_NUMBER = 1e30
"""Largest magnitude of a number: squares add up, and what a model makes of it fits single precision."""
EARLIEST, LATEST = datetime(1700, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
"""Event times: nanoseconds in 64 bits, as pandas counts, reach from 1677 to 2262."""
MAX_REJECT_BYTES = 4 * 1024
"""Original bytes kept in a reject; the digest covers them all."""


def read_json(value: bytes) -> Any:
    """Reads an event's bytes, for its publisher as for ingest. `NaN`, `Infinity` and a byte order
    mark are no JSON, but many programs write them: they are read, so that a reject can name the
    field. Raises json.JSONDecodeError.
    """
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as strict:
        try:
            read = json.loads(value.decode("utf-8-sig"), parse_int=_whole)
            orjson.dumps(read)  # lone surrogates, which the lenient reader takes, are no JSON downstream
        except (ValueError, TypeError, RecursionError):
            raise strict from None
        return read


def _whole(digits: str) -> float:
    """A number of 64 bits, or as the strict reader has it: rounded, and infinite at last."""
    if len(digits) <= 20 and -(2**63) <= (number := int(digits)) < 2**64:
        return number
    return float(digits)


_ZONELESS = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?")


def zoneless(value: object) -> bool:
    """Tells whether an event time is a day, or a time without an offset: it counts with the
    source's `timezone`, and is rejected without one.
    """
    return isinstance(value, str) and _ZONELESS.fullmatch(value) is not None


class Record(TypedDict):
    """`<p>.<source>.records.v1`; key = the entity, partition = the event's partition."""

    id: str
    entity: str
    time: str  # Event time, RFC 3339 in UTC with microseconds
    partition: int  # Partition of the event
    offset: int  # Offset of the event
    traceparent: str | None
    fields: dict[str, Value]  # Every declared field, missing ones as None


class Reject(TypedDict):
    """`<p>.<source>.rejects.v1`; key = the event's key."""

    reason: RejectReason
    field: str | None
    # The offending value as text, at most 200 characters; never of a personal field.
    value: str | None
    detail: str  # One sentence for people
    original: str  # Base64 of the event's bytes, at most MAX_REJECT_BYTES of them
    truncated: bool
    digest: str  # sha256 of all the event's bytes, hex
    partition: int
    offset: int
    time: str  # Time of the rejection


class Prediction(TypedDict):
    """`<p>.predictions.v1`; key = the prediction's id."""

    id: str  # `x-penstock-prediction`, made by the door
    pipeline: str
    digest: str | None  # The version that answered, by the generation in the response
    generation: int | None
    time: str
    milliseconds: float
    protocol: Literal["grpc", "http"]
    status: str  # `OK` or the gRPC status name / HTTP code
    traceparent: str | None
    rows: int | None
    # Inputs by field, row by row; None where the body was too large to keep or could not be
    # decoded.
    inputs: dict[str, list[Value]] | None
    probabilities: list[list[float]] | None
    values: list[float] | None
    intervals: NotRequired[list[list[float]]]  # Around the values, from a version that gives some
    decisions: list[str] | None
    # Ids of the events behind the features, by source, where the prediction was asked by entity.
    events: NotRequired[dict[str, str] | None]
    # Sentences on inputs that are missing, unknown, or outside of what training saw; by `Predict` alone.
    warnings: NotRequired[list[str]]
    undecoded: str | None  # Reason why inputs or outputs are missing
    site: NotRequired[str]  # Name of the site that was asked; none: the platform's door was
    # Who answered at a site's: the site itself, or the platform, whose door wrote the record then.
    served_by: NotRequired[Literal["site", "cloud"]]
    # Each row's distance to the nearest decision's edge, from 0 to 1; of a site's classes alone.
    confidence: NotRequired[list[float]]
    degraded: NotRequired[Degraded]  # Reason why a site's answer is not the promoted version's at the site
    for_labelling: NotRequired[bool]  # A row's confidence lies below the pipeline's `edge.label_below`


class SitePosition(TypedDict):
    """`edge-positions.v1`; key = `site/lane`. All that a site's lane held up to `sequence` stands in
    the topics: this is written in the same transaction.
    """

    site: str
    lane: str  # `events` or `predictions`
    epoch: str  # Random name of the site's spool
    sequence: int
    incarnation: int  # Start of the site that forwarded last


SHAPES = {"Record": Record, "Reject": Reject, "Prediction": Prediction, "SitePosition": SitePosition}
"""Shapes by the name that the topic catalogue gives each."""
