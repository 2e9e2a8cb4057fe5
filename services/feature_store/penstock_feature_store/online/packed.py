"""An entity's row of one source once more in one value, as it is answered.

It is one more of Feast's features beside the row's own: read by itself where the columns of a hundred
entities are a thousand values. A stamp of its fields, the row's `__origin` as Feast keeps it, the
event time in microseconds, an `EntityFeatures` without entity and status. Of a row that was written
without it, by an older version or for other fields, the columns tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from struct import Struct

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.feature_store.v1 import feature_store_pb2 as pb
from penstock_feature_store import names
from penstock_feature_store.online.feast_import import Value
from penstock_feature_store.online.rows import Origin, Scalar

_VERSION = 1
_TIME = Struct("<q")
FOUND, NOT_FOUND, EXPIRED = (
    pb.EntityFeatures.STATUS_FOUND,
    pb.EntityFeatures.STATUS_NOT_FOUND,
    pb.EntityFeatures.STATUS_EXPIRED,
)

_FOUND, _NOT_FOUND, _EXPIRED = (
    pb.EntityFeatures(status=status).SerializeToString() for status in (FOUND, NOT_FOUND, EXPIRED)
)

Packed = bytes
"""An `EntityFeatures` as it is sent, without its entity: its status comes first."""


class Packing:
    """Packed rows of one source with these fields, in this order."""

    def __init__(self, source: str, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self._columns = [names.column_of(field) for field in fields]
        self._source = source
        self._stamp = blake2b(repr((_VERSION, self.fields)).encode(), digest_size=8).digest()
        nothing = pb.EntityFeatures(values=[pb.Value()] * len(fields)).SerializeToString()
        self._not_found, self._expired = _NOT_FOUND + nothing, _EXPIRED + nothing

    def pack(self, origin: Origin, values: Mapping[str, Scalar]) -> bytes:
        """`values` by column."""
        seconds, microseconds = divmod(origin.time_us, 1_000_000)
        row = pb.EntityFeatures(
            values=[value_of(values[column]) for column in self._columns],
            time=Timestamp(seconds=seconds, nanos=microseconds * 1000),
            events={self._source: origin.event_id},
        )
        return self._stamp + kept(origin) + _TIME.pack(origin.time_us) + row.SerializeToString()

    def unpack(
        self, rows: Iterable[tuple[bytes | None, bytes | None]], oldest_us: int
    ) -> list[Packed | None]:
        """Unpacks a row an entity; None where only columns can tell. `rows`: its `__origin` and `__row` as
        Feast keeps them, None where it does not; `oldest_us`: event time before which a row is expired.
        """
        stamp, unpacked = self._stamp, list[Packed | None]()
        for origin, packed in rows:
            if origin is None:
                unpacked.append(self._not_found)
                continue
            head = stamp + origin
            if packed is None or not packed.startswith(head, at := _bytes_at(packed)):
                unpacked.append(None)
                continue
            (time_us,) = _TIME.unpack_from(packed, begins := at + len(head))
            said = packed[begins + _TIME.size :]
            unpacked.append(_FOUND + said if time_us >= oldest_us else self._without_values(said))
        return unpacked

    def _without_values(self, said: bytes) -> Packed:
        expired = pb.EntityFeatures.FromString(said)
        del expired.values[:]
        return self._expired + expired.SerializeToString()


def _bytes_at(packed: bytes) -> int:
    """Place in a `Value` of Feast's, of bytes and nothing else, where these begin: after their kind and
    their length. To read the message takes longer than all the rest.
    """
    size = len(packed)
    return 3 if 129 < size < 16_387 else 2 if size < 130 else 4 if size < 2_097_156 else 5


def kept(origin: Origin) -> bytes:
    """`__origin` as Feast keeps it."""
    kept: bytes = Value(string_val=str(origin)).SerializeToString()
    return kept


def value_of(value: Scalar) -> pb.Value:
    match value:
        case None:
            return pb.Value()
        case bool():
            return pb.Value(boolean=value)
        case str():
            return pb.Value(text=value)
        case _:
            return pb.Value(number=value)
