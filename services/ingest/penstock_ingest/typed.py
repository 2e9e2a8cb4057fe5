"""A chunk of a source's events, decoded and checked by their type; an event that this refuses goes
through the rules, which alone say why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import compress
from typing import Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from penstock.contracts.dataplane import EARLIEST, MAX_EVENT_BYTES, Value
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.validation import Accepted, Rejected, Rules, utc, utc_text
from penstock.runtime.kafka.messages import Message
from penstock_ingest.shape import blank, event_type

DECODERS: Final[Mapping[str, Callable[[type[Struct]], Callable[[bytes], Struct]]]] = {
    "json": lambda shape: msgspec.json.Decoder(shape).decode
}
"""By format; events of any other go through the rules."""

_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)", re.ASCII)
_BACKSLASH, _NUL = ord("\\"), rb"\u0000"

T = TypeVar("T")
Row = tuple[Any, ...]


class Checked(NamedTuple):
    """Accepted events in order, column by column."""

    messages: Sequence[Message]
    ids: Sequence[str]
    entities: Sequence[str]
    times: Sequence[str]
    fields: Mapping[str, Sequence[Value]]  # every declared field in the file's order

    def only(self, keep: Sequence[bool]) -> Checked:
        """The events at which `keep` is true."""
        if all(keep):
            return self

        def kept(column: Sequence[T]) -> list[T]:
            return list(compress(column, keep))

        return Checked(
            kept(self.messages),
            kept(self.ids),
            kept(self.entities),
            kept(self.times),
            {name: kept(column) for name, column in self.fields.items()},
        )


class TypedRules:
    """Rules of one source, applied to a chunk of events at a time."""

    def __init__(self, pipeline: Pipeline, source: str, rules: Rules) -> None:
        """Raises KeyError for a source that the pipeline does not have."""
        declared = pipeline.sources[source]
        key = pipeline.entities[declared.entity].key
        names = list(dict.fromkeys([declared.id, key, declared.timestamp, *declared.fields]))
        self.rules = rules
        self._zone = ZoneInfo(declared.timezone) if declared.timezone else None
        self._time_at = names.index(declared.timestamp)
        self._columns = [names.index(name) for name in (declared.id, key, *declared.fields)]
        self._blanks = [blank(field, declared.missing) for field in declared.fields.values()]
        shape, decoder = event_type(declared, key, names), DECODERS.get(declared.format.type)
        self._decode = decoder(shape) if decoder and shape else None

    def check(
        self, messages: Sequence[Message], latest: datetime
    ) -> tuple[Checked, list[tuple[Message, Rejected]]]:
        """Judges events whose time may be `latest`. Never raises, whatever the bytes are."""
        places, columns = self._fitting(messages, latest)
        rejected: list[tuple[Message, Rejected]] = []
        if len(places) < len(messages):
            rows: dict[int, Row] = dict(zip(places, zip(*columns, strict=True), strict=True))
            for place, message in enumerate(messages):
                if place not in rows:
                    answer = self.rules.check(message.value, latest)
                    if isinstance(answer, Accepted):
                        rows[place] = (answer.id, answer.entity, answer.time, *answer.fields.values())
                    else:
                        rejected.append((message, answer))
            places = sorted(rows)
            columns = list(zip(*(rows[place] for place in places), strict=True))
        ids, entities, times, *fields = columns or [()] * (3 + len(self._blanks))
        named = dict(zip(self.rules.fields, fields, strict=True))
        return Checked([messages[place] for place in places], ids, entities, times, named), rejected

    def _fitting(
        self, messages: Sequence[Message], latest: datetime
    ) -> tuple[list[int], list[Sequence[Any]]]:
        """Places of the events that fit the type, and their ids, entities, times and fields."""
        places, rows, times = self._decoded(messages, latest)
        if not rows:
            return [], []
        columns = list(zip(*rows, strict=True))
        ids, entities, *fields = (columns[at] for at in self._columns)
        known = [
            column
            if not missing or missing.isdisjoint(column)
            else [None if value in missing else value for value in column]
            for missing, column in zip(self._blanks, fields, strict=True)
        ]
        return places, [list(map(str, ids)), list(map(str, entities)), times, *known]

    def _decoded(
        self, messages: Sequence[Message], latest: datetime
    ) -> tuple[list[int], list[Row], list[str]]:
        places, rows, times = list[int](), list[Row](), list[str]()
        if (decode := self._decode) is None:
            return places, rows, times
        time_at = self._time_at
        for place, message in enumerate(messages):
            value = message.value or b""
            try:
                row = astuple(decode(value))
                time = self._time(row[time_at], latest)
            except (ValueError, OverflowError, OSError):
                continue
            if time and len(value) <= MAX_EVENT_BYTES and not (_BACKSLASH in value and _NUL in value):
                places.append(place)
                rows.append(row)
                times.append(time)
        return places, rows, times

    def _time(self, value: str | float, latest: datetime) -> str | None:
        """None for a time out of bounds. Raises ValueError, OverflowError and OSError for what is none."""
        if type(value) is str and _UTC.fullmatch(value):
            moment, text = datetime.fromisoformat(value), f"{value[:19]}.000000Z"
        else:
            moment = utc(value, self._zone)
            text = utc_text(moment)
        return text if EARLIEST <= moment <= latest else None
