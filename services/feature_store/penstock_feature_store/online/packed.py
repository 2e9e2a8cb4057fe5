"""An entity's row of one source once more in one value, as it is answered.

It is one more of Feast's features beside the row's own: read by itself where the columns of a hundred
entities are a thousand values. A stamp of its fields, the row's `__origin` as Feast keeps it, the
event time in microseconds, an `EntityFeatures` without entity and status. Of a row that was written
without it, by an older version or for other fields, the columns tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

Packed = tuple[pb.EntityFeatures.Status.ValueType, bytes]
"""Status, and the rest of an `EntityFeatures` without its entity."""


class Packing:
    """Packed rows of one source with these fields, in this order."""

    def __init__(self, source: str, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self._columns = [names.column_of(field) for field in fields]
        self._source = source
        self._stamp = blake2b(repr((_VERSION, self.fields)).encode(), digest_size=8).digest()
        self._nothing = pb.EntityFeatures(values=[pb.Value()] * len(fields)).SerializeToString()

    def pack(self, origin: Origin, values: Mapping[str, Scalar]) -> bytes:
        """`values` by column."""
        seconds, microseconds = divmod(origin.time_us, 1_000_000)
        row = pb.EntityFeatures(
            values=[value_of(values[column]) for column in self._columns],
            time=Timestamp(seconds=seconds, nanos=microseconds * 1000),
            events={self._source: origin.event_id},
        )
        return self._stamp + kept(origin) + _TIME.pack(origin.time_us) + row.SerializeToString()

    def unpack(self, origin: bytes | None, packed: bytes | None, oldest_us: int) -> Packed | None:
        """An entity's row; None where only the columns can tell. `origin` and `packed` as Feast keeps them,
        None where it does not; `oldest_us`: event time before which a row is expired.
        """
        if origin is None:
            return NOT_FOUND, self._nothing
        # Of Feast's message only the bytes are wanted; to read it takes longer than all the rest.
        head, at = self._stamp + origin, _bytes_at(packed)
        if packed is None or not packed.startswith(head, at):
            return None
        begins = at + len(head)
        (time_us,) = _TIME.unpack_from(packed, begins)
        said = packed[begins + _TIME.size :]
        if time_us >= oldest_us:
            return FOUND, said
        expired = pb.EntityFeatures.FromString(said)
        del expired.values[:]
        return EXPIRED, expired.SerializeToString() + self._nothing


def _bytes_at(packed: bytes | None) -> int:
    """Place in a `Value` of Feast's, of bytes and nothing else, where these begin."""
    at = 1
    while packed is not None and at < len(packed) and packed[at] & 0x80:
        at += 1
    return at + 1


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
