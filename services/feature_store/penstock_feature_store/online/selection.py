"""Fields that are asked for together: how their answer begins, and where packed rows have their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock_feature_store.online.packed import EXPIRED, FOUND, NOT_FOUND, Packed, Packing
from penstock_feature_store.online.stores import OnlineStore


class Selection:
    """Made once for many calls: most ask for the same fields."""

    def __init__(self, wanted: Sequence[tuple[str, str]], packings: Mapping[str, Packing]) -> None:
        """`wanted`: (source, field); `packings` by source."""
        asked = [f"{source}.{field}" for source, field in wanted]
        self.head = pb.GetOnlineFeaturesResponse(fields=asked).SerializeToString()
        self._sources = list(dict.fromkeys(source for source, _ in wanted))
        kept = {source: packings[source].fields for source in self._sources}
        self._packed = all(field in kept[source] for source, field in wanted)
        self._whole = len(kept) == 1 and kept[self._sources[0]] == tuple(field for _, field in wanted)
        self._places = [(source, kept[source].index(field)) for source, field in wanted if self._packed]

    def read(self, store: OnlineStore, entities: Sequence[str], now: datetime) -> Sequence[Packed | None]:
        """Reads a row an entity, in order; None for one of which only the columns can tell."""
        if not self._packed:
            return [None] * len(entities)
        parts = [store.features(source, entities, now) for source in self._sources]
        if self._whole:
            return parts[0]
        return [self._joined(of_entity) for of_entity in zip(*parts, strict=True)]

    def _joined(self, rows: Sequence[Packed | None]) -> Packed | None:
        """Features of several sources, or some of one's: found when any source has a row that counts; expired
        when all that there are no longer do.
        """
        parts = {
            source: pb.EntityFeatures.FromString(row)
            for source, row in zip(self._sources, rows, strict=True)
            if row is not None
        }
        if len(parts) < len(rows):
            return None
        statuses = {part.status for part in parts.values()}
        status = next(kind for kind in (FOUND, EXPIRED, NOT_FOUND) if kind in statuses)
        joined = pb.EntityFeatures(
            status=status, values=[parts[source].values[place] for source, place in self._places]
        )
        for part in parts.values():
            if part.status == status and part.HasField("time"):
                joined.events.update(part.events)
                if not joined.HasField("time") or joined.time.ToNanoseconds() < part.time.ToNanoseconds():
                    joined.time.CopyFrom(part.time)
        return joined.SerializeToString()
