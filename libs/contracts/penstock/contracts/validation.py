"""The rules of one source: is an event a record, and if not, why. Pure; no clock, no I/O.

Ingest accepts or rejects; it never learns, and never changes a value beyond its declared type: an
integer in a number field becomes a float, an empty text is a missing one (downstream, "" *is* how a
missing text travels), nothing else. Units are declared for people and for lineage; a value is taken
to be in its declared unit.

Every event gets one answer. Where several rules are broken, the reject names the first: size, JSON,
object, id, key, timestamp, unknown fields, then the declared fields in the file's order within each
type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import orjson

from penstock.contracts.dataplane import (
    EARLIEST,
    LATEST,
    MAX_EVENT_BYTES,
    MAX_IDENTIFIER,
    MAX_NUMBER,
    RejectReason,
    Value,
    zoneless,
)
from penstock.contracts.durations import format_duration
from penstock.contracts.formats import Undecodable, decoder
from penstock.contracts.pipeline import Pipeline, SourceField

MAX_SHOWN = 200  # characters of an offending value in a reject

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)")
_KINDS = {
    type(None): "null",
    bool: "a truth value",
    int: "a number",
    str: "a text",
    list: "a list",
}
_TIME_REMEDIES = {
    int: "a number counts seconds since 1970, not milliseconds",
    float: "a number counts seconds since 1970, not milliseconds",
}


class Accepted(NamedTuple):
    id: str
    entity: str
    time: str  # RFC 3339 in UTC with microseconds
    fields: dict[str, Value]  # every declared field in the file's order, missing ones as None


class Rejected(NamedTuple):
    reason: RejectReason
    field: str | None
    # At most MAX_SHOWN characters; None for a personal field, and for one that is not declared: it
    # may be personal.
    value: str | None
    detail: str  # one sentence for people; never holds the event's value


class _Broken(Exception):
    def __init__(
        self, reason: RejectReason, detail: str, field: str | None = None, value: object = None
    ) -> None:
        self.rejected = Rejected(reason, field, None if value is None else _shown(value), detail)


class Rules:
    """Rules of one source, compiled once and applied to each event. `window_ms`: time within which
    a repeated id is a duplicate, in milliseconds.
    """

    def __init__(self, pipeline: Pipeline, source: str) -> None:
        """Raises KeyError for a source that the pipeline does not have."""
        declared = pipeline.sources[source]
        self._id = declared.id
        self._key = pipeline.entities[declared.entity].key
        self._timestamp = declared.timestamp
        self._zone = ZoneInfo(declared.timezone) if declared.timezone else None
        self._missing = frozenset(declared.missing)
        self._decode = decoder(declared)
        self.ahead = declared.at_most_ahead
        self.window_ms = round(declared.deduplicate.total_seconds() * 1000)
        self.fields: Mapping[str, SourceField] = declared.fields
        self._known = frozenset({*declared.fields, self._id, self._key, self._timestamp})
        self._blank: dict[str, Value] = dict.fromkeys(declared.fields)
        self._numbers = tuple(
            (name, *bounds(field), field) for name, field in declared.fields.items() if field.type == "number"
        )
        self._texts = tuple(
            (
                name,
                field.max_length,
                frozenset(field.values) if field.values is not None else None,
                _listed(field.values or ()),
                field,
            )
            for name, field in declared.fields.items()
            if field.type in ("category", "text")
        )
        self._booleans = tuple(
            (name, field) for name, field in declared.fields.items() if field.type == "boolean"
        )
        self._required = tuple(name for name, field in declared.fields.items() if field.required)

    def check(self, value: bytes | None, latest: datetime = LATEST) -> Accepted | Rejected:
        """Judges an event whose time may be `latest`. Never raises, whatever the bytes are."""
        try:
            event = self._event(value)
            identity = self._identifier(event, self._id, "no_id", "id")
            entity = self._identifier(event, self._key, "no_key", "key")
            time = self._time(event, latest)
            if not event.keys() <= self._known:
                raise self._unknown(event)
            if self._missing:
                event = {name: None if self._is_missing(said) else said for name, said in event.items()}
            return Accepted(identity, entity, time, self._values(event))
        except _Broken as broken:
            return broken.rejected
        except Undecodable as told:
            return Rejected(told.reason, None, None, told.detail)

    def _is_missing(self, value: object) -> bool:
        return type(value) is str and value in self._missing

    def _event(self, value: bytes | None) -> dict[str, Any]:
        if not value:
            raise Undecodable("not_json", "the message has no value")
        if len(value) > MAX_EVENT_BYTES:
            raise Undecodable(
                "too_large", f"the event has {len(value):,} bytes; the most is {MAX_EVENT_BYTES:,}"
            )
        event = self._decode(value)
        if type(event) is not dict:
            raise Undecodable("not_an_object", f"an event is a JSON object, not {_kind(event)}")
        return event

    # -- id, key, timestamp ------------------------------------------------------------------------

    def _identifier(self, event: dict[str, Any], name: str, reason: RejectReason, role: str) -> str:
        value = event.get(name)
        if type(value) is str and 0 < len(value) <= MAX_IDENTIFIER and "\0" not in value:
            return value
        if value is None or value == "":
            raise _Broken(reason, f"the event's {role} `{name}` is missing", name)
        if type(value) is int:
            return str(value)
        if type(value) is str and len(value) > MAX_IDENTIFIER:
            raise _Broken(
                "too_long",
                f"the event's {role} `{name}` has more than {MAX_IDENTIFIER} characters",
                name,
                self._showable(name, value),
            )
        raise _Broken(
            "wrong_type",
            f"the event's {role} `{name}` must be a text or a whole number, not {_kind(value)}",
            name,
            self._showable(name, value),
        )

    def _time(self, event: dict[str, Any], latest: datetime) -> str:
        name = self._timestamp
        value = event.get(name)
        if value is None or value == "":
            raise _Broken("no_timestamp", f"the event's timestamp `{name}` is missing", name)
        try:
            moment = utc(value, self._zone)
        except (ValueError, OverflowError, OSError):
            said = f"`{name}` is no time: {self._time_remedy(value)}"
            raise _Broken("bad_timestamp", said, name, self._showable(name, value)) from None
        if not EARLIEST <= moment <= latest:
            wrong = (
                f"before {EARLIEST.year} or after {LATEST.year}"
                if moment < EARLIEST or moment > LATEST
                else f"more than {format_duration(self.ahead)} ahead of the clock (`at_most_ahead`)"
            )
            raise _Broken("bad_timestamp", f"`{name}` lies {wrong}", name, self._showable(name, value))
        return utc_text(moment)

    def _time_remedy(self, value: object) -> str:
        if type(value) is not str:
            return _TIME_REMEDIES.get(type(value), "write RFC 3339, or seconds since 1970")
        if zoneless(value) and not self._zone:
            return "it names no zone; declare the source's `timezone`, as in UTC, or write an offset"
        if zoneless(value) or _RFC_3339.fullmatch(value):
            return "it is written as one, but there is no such day or hour"
        if self._zone:
            return "write RFC 3339, as in 2026-01-31T12:00:00, or a day, as in 2026-01-31"
        return "write RFC 3339 with an offset, as in 2026-01-31T12:00:00Z"

    # -- declared fields ---------------------------------------------------------------------------

    def _values(self, event: dict[str, Any]) -> dict[str, Value]:
        found = self._blank.copy()
        self._take_numbers(event, found)
        self._take_texts(event, found)
        self._take_booleans(event, found)
        for name in self._required:
            if found[name] is None:
                raise _Broken("missing_field", f"`{name}` is required and missing", name)
        return found

    def _take_numbers(self, event: dict[str, Any], found: dict[str, Value]) -> None:
        for name, low, high, field in self._numbers:
            value = event.get(name)
            if value is None:
                continue
            if type(value) is not float and type(value) is not int:
                self._violated(
                    field, "wrong_type", f"`{name}` must be a number, not {_kind(value)}", name, value
                )
            elif low <= value <= high and (number := float(value)) == value:  # nor is NaN
                found[name] = number
            elif isinstance(value, float) and not math.isfinite(value):
                self._violated(field, "not_finite", f"`{name}` must be a finite number", name, value)
            else:
                wrong = (
                    "has more digits than a 64-bit float holds; publish it as a text"
                    if low <= value <= high
                    else f"is outside its range [{low:g}, {high:g}]"
                )
                self._violated(field, "out_of_range", f"`{name}` {wrong}", name, value)

    def _take_texts(self, event: dict[str, Any], found: dict[str, Value]) -> None:
        for name, max_length, values, listed, field in self._texts:
            value = event.get(name)
            if value is None or value == "":
                continue
            if type(value) is not str or "\0" in value:
                self._violated(
                    field, "wrong_type", f"`{name}` must be a text, not {_kind(value)}", name, value
                )
            elif len(value) > max_length:
                self._violated(
                    field, "too_long", f"`{name}` has more than {max_length:,} characters", name, value
                )
            elif values is not None and value not in values:
                self._violated(
                    field, "unknown_value", f"`{name}` is none of its declared values: {listed}", name, value
                )
            else:
                found[name] = value

    def _take_booleans(self, event: dict[str, Any], found: dict[str, Value]) -> None:
        for name, field in self._booleans:
            value = event.get(name)
            if value is True or value is False:
                found[name] = value
            elif value is not None:
                self._violated(
                    field, "wrong_type", f"`{name}` must be true or false, not {_kind(value)}", name, value
                )

    def _violated(
        self, field: SourceField, reason: RejectReason, detail: str, name: str, value: object
    ) -> None:
        # `set_missing` leaves the field as it is: missing. A required field cannot be set missing.
        if field.on_violation == "reject" or field.required:
            raise _Broken(reason, detail, name, self._showable(name, value))

    def _showable(self, name: str, value: object) -> object:
        # A field without a declaration of its own (an id, a key, a timestamp) names no person's
        # attribute and is shown.
        field = self.fields.get(name)
        return None if field is not None and field.personal else value

    def _unknown(self, event: dict[str, Any]) -> _Broken:
        name = min(event.keys() - self._known)
        near = _nearest(name[:MAX_SHOWN], self._known)
        meant = f"; did you mean `{near}`?" if near else ""
        return _Broken(
            "unknown_field", f"the source declares no field `{name[:MAX_SHOWN]}`{meant}", name[:MAX_SHOWN]
        )


def utc(value: object, zone: ZoneInfo | None) -> datetime:
    """An event's time, in `zone` where it has no offset. Raises ValueError, OverflowError and OSError."""
    if type(value) is str and _RFC_3339.fullmatch(value):
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    if zone and type(value) is str and zoneless(value):
        return datetime.fromisoformat(value).replace(tzinfo=zone).astimezone(UTC)
    if type(value) is int or type(value) is float:
        return datetime.fromtimestamp(value, UTC)
    raise ValueError("neither RFC 3339 nor a number")


def utc_text(moment: datetime) -> str:
    """RFC 3339 of a time in UTC, with microseconds."""
    # Eight times as fast as isoformat, but leaves out microseconds that are zero.
    said = orjson.dumps(moment)
    return said[1:27].decode() + "Z" if moment.microsecond else said[1:20].decode() + ".000000Z"


def bounds(field: SourceField) -> tuple[float, float]:
    """Inclusive bounds of a number."""
    low, high = field.range or (-MAX_NUMBER, MAX_NUMBER)
    return max(low, -MAX_NUMBER), min(high, MAX_NUMBER)


@lru_cache(maxsize=1024)
def _nearest(name: str, known: frozenset[str]) -> str | None:
    return next(iter(get_close_matches(name, sorted(known), n=1)), None)


def _kind(value: object) -> str:
    if isinstance(value, str) and "\0" in value:
        return "a text with a NUL character"
    if isinstance(value, float):  # as the reader makes it of a whole number beyond 64 bits, too
        return f"a number {'beyond 64 bits' if abs(value) >= 2**63 else 'with a fraction'}"
    return _KINDS.get(type(value), "an object")


def _listed(values: Sequence[str]) -> str:
    """Declared values, as many as fit MAX_SHOWN characters."""
    said = ", ".join(values)
    return said if len(said) <= MAX_SHOWN else f"{said[:MAX_SHOWN]}…"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value[:MAX_SHOWN]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return orjson.dumps(value).decode(errors="replace")[:MAX_SHOWN]
