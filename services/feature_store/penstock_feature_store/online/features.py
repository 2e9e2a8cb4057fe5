"""Entities' features as they are answered: from packed rows, from the columns where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock.runtime.rpc import timestamp
from penstock_feature_store.online.packed import EXPIRED, FOUND, NOT_FOUND, value_of
from penstock_feature_store.online.rows import Row
from penstock_feature_store.pipelines import Held

AT_ONCE: Final = 200  # entities read on the event loop, half a millisecond a hundred; more in a thread
_STATUSES: Final = {"found": FOUND, "expired": EXPIRED, "not_found": NOT_FOUND}


async def features_of(held: Held, entities: Sequence[str], fields: Sequence[str], now: datetime) -> bytes:
    """A `GetOnlineFeaturesResponse` as it is sent: one an entity, in order, with these fields
    (`source.field`). Raises Invalid for a field that is none, and Unavailable where the store does not
    answer.
    """
    selection = held.selection(fields)
    if held.reader.at_hand and len(entities) <= AT_ONCE:
        packed = selection.read(held.reader, entities, now)
    else:
        packed = await asyncio.to_thread(selection.read, held.reader, entities, now)
    read: Iterator[pb.EntityFeatures] = iter(())
    if None in packed:
        lacking = [entity for entity, row in zip(entities, packed, strict=True) if row is None]
        read = iter(await asyncio.to_thread(from_columns, held, lacking, fields, now))
    parts = [selection.head]
    for entity, row in zip(entities, packed, strict=True):
        if row is None:
            said = next(read).SerializeToString()
            parts += (_ENTITIES, _varint(len(said)), said)
        else:
            name = entity.encode()
            parts += (_begins(len(name), len(row)), name, row)
    return b"".join(parts)


# Of the messages on the wire: the response's `entities`, and an entity's name.
_ENTITIES: Final = b"\x12"
_ENTITY: Final = b"\x0a"


@lru_cache(maxsize=4096)
def _begins(name: int, row: int) -> bytes:
    """Bytes before the name of an entity in the answer; lengths in bytes."""
    named = _ENTITY + _varint(name)
    return _ENTITIES + _varint(len(named) + name + row) + named


def _varint(number: int) -> bytes:
    """Protobuf's encoding of a length."""
    low = bytearray()
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*low, number))


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
