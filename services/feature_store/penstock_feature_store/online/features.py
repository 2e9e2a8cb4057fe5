"""Entities' features as they are answered: from packed rows, from the columns where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.runtime.rpc import timestamp
from penstock_feature_store.online.packed import EXPIRED, FOUND, NOT_FOUND, Packed, value_of
from penstock_feature_store.online.rows import Row
from penstock_feature_store.pipelines import Held

AT_ONCE: Final = 200  # entities read on the event loop, half a millisecond a hundred; more in a thread
# Of the messages on the wire: the response's `entities`, an entity's name, and its status by value.
_ENTITIES: Final = b"\x12"
_ENTITY: Final = b"\x0a"
_STATUS: Final = {status: bytes((0x10, status)) for status in (FOUND, NOT_FOUND, EXPIRED)}
_STATUSES: Final = {"found": FOUND, "expired": EXPIRED, "not_found": NOT_FOUND}


async def features_of(held: Held, entities: Sequence[str], fields: Sequence[str], now: datetime) -> bytes:
    """A `GetOnlineFeaturesResponse` as it is sent: one an entity, in order, with these fields
    (`source.field`). Raises Invalid for a field that is none, and Unavailable where the store does not
    answer.
    """
    if held.reader.at_hand and len(entities) <= AT_ONCE:
        packed = from_packed(held, entities, fields, now)
    else:
        packed = await asyncio.to_thread(from_packed, held, entities, fields, now)
    lacking = [entity for entity, row in zip(entities, packed, strict=True) if row is None]
    read = iter(await asyncio.to_thread(from_columns, held, lacking, fields, now) if lacking else ())
    parts = [pb.GetOnlineFeaturesResponse(fields=fields).SerializeToString()]
    for entity, row in zip(entities, packed, strict=True):
        if row is None:
            said = next(read).SerializeToString()
            parts += (_ENTITIES, _varint(len(said)), said)
        else:
            name, (status, rest) = entity.encode(), row
            size = _varint(len(name))
            length = len(_ENTITY) + len(size) + len(name) + len(_STATUS[status]) + len(rest)
            parts += (_ENTITIES, _varint(length), _ENTITY, size, name, _STATUS[status], rest)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    """Protobuf's encoding of a length."""
    low = bytearray()
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*low, number))


def from_packed(
    held: Held, entities: Sequence[str], fields: Sequence[str], now: datetime
) -> Sequence[Packed | None]:
    """None for an entity of which only the columns can tell."""
    wanted = [held.reference(field) for field in fields]
    packings = {source: held.reader.packings[source] for source, _ in wanted}
    if not all(field in packings[source].fields for source, field in wanted):
        return [None] * len(entities)
    parts = {source: held.reader.features(source, entities, now) for source in packings}
    if len(parts) == 1 and packings[wanted[0][0]].fields == tuple(field for _, field in wanted):
        return parts[wanted[0][0]]
    places = [(source, packings[source].fields.index(field)) for source, field in wanted]
    return [
        _joined(dict(zip(parts, of_entity, strict=True)), places)
        for of_entity in zip(*parts.values(), strict=True)
    ]


def _joined(rows: Mapping[str, Packed | None], places: Sequence[tuple[str, int]]) -> Packed | None:
    """Features of several sources, or some of one's: found when any source has a row that counts; expired
    when all that there are no longer do.
    """
    whole = {source: row for source, row in rows.items() if row is not None}
    if len(whole) < len(rows):
        return None
    statuses = {status for status, _ in whole.values()}
    status = next(kind for kind in _STATUSES.values() if kind in statuses)
    parts = {source: pb.EntityFeatures.FromString(said) for source, (_, said) in whole.items()}
    joined = pb.EntityFeatures(values=[parts[source].values[place] for source, place in places])
    for source, part in parts.items():
        if whole[source][0] == status and part.HasField("time"):
            joined.events.update(part.events)
            if not joined.HasField("time") or joined.time.ToNanoseconds() < part.time.ToNanoseconds():
                joined.time.CopyFrom(part.time)
    return status, joined.SerializeToString()


def from_columns(
    held: Held, entities: Sequence[str], fields: Sequence[str], now: datetime
) -> list[pb.EntityFeatures]:
    """Reads through Feast, value by value."""
    by_source: dict[str, list[str]] = {}
    for source, field in map(held.reference, dict.fromkeys(fields)):
        by_source.setdefault(source, []).append(field)
    rows = {source: held.reader.read(source, entities, asked, now) for source, asked in by_source.items()}
    return [
        _entity(entity, fields, {source: found[place] for source, found in rows.items()})
        for place, entity in enumerate(entities)
    ]


def _entity(entity: str, fields: Sequence[str], rows: Mapping[str, Row]) -> pb.EntityFeatures:
    kinds = {row.status for row in rows.values()}
    status = next((kind for kind in _STATUSES if kind in kinds), "not_found")
    values = {
        f"{source}.{field}": value for source, row in rows.items() for field, value in row.values.items()
    }
    origins = {source: row.origin for source, row in rows.items() if row.origin and row.status == status}
    return pb.EntityFeatures(
        entity=entity,
        status=_STATUSES[status],
        values=[value_of(values.get(field)) for field in fields],
        time=timestamp(max((origin.time for origin in origins.values()), default=None)),
        events={source: origin.event_id for source, origin in origins.items()},
    )
