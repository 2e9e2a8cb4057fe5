"""Event files for TensorBoard: scalars by step, and values and outcomes for its page HParams.

Written here, as TensorBoard's package would bring ten others for this: a file of TFRecords (length
and content, each followed by its masked CRC-32C) of `Event` messages, with those fields of
TensorBoard's `event.proto`, `summary.proto` and `hparams/plugin_data.proto` that are used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.struct_pb2 import Value
from pydantic import JsonValue

from penstock.contracts.errors import Unavailable
from penstock.modelkit.family import write_whole

STARTED, ENDED = "_hparams_/session_start_info", "_hparams_/session_end_info"
SUCCESS, FAILURE = 1, 2


@dataclass(frozen=True)
class Session:
    """A run or trial. `values`: what it was made with; `curves`: by name, of each step its number,
    its moment in seconds and the value; `outcome`: final figures.
    """

    started_at: float
    ended_at: float
    values: Mapping[str, JsonValue]
    outcome: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float, float]]] = field(default_factory=dict)
    failed: bool = False


def write(folder: Path, session: Session) -> None:
    """Writes the session's file into the folder, in place of an earlier one of it. Raises Unavailable."""
    records = b"".join(map(_record, _events(session)))
    try:
        write_whole(folder / f"events.out.tfevents.{session.started_at:.0f}.penstock", records)
    except OSError as error:
        raise Unavailable(f"cannot be written: {error}", where=str(folder)) from error


def _events(session: Session) -> Iterator[bytes]:
    begun, ended = session.started_at, session.ended_at
    yield _double(1, begun) + _bytes(3, b"brain.Event:2")
    entries = (_bytes(1, name.encode()) + _bytes(2, _value(value)) for name, value in session.values.items())
    named = b"".join(_bytes(1, entry) for entry in entries)
    yield _event(begun, 0, _plugin(STARTED, _bytes(3, named + _double(5, begun))))
    for name, points in session.curves.items():
        for step, moment, value in points:
            yield _event(moment, step, _scalar(name, value))
    for name, value in session.outcome.items():
        yield _event(ended, 0, _scalar(name, value))
    status = _whole(1, FAILURE if session.failed else SUCCESS)
    yield _event(ended, 0, _plugin(ENDED, _bytes(4, status + _double(2, ended))))


def _event(moment: float, step: int, value: bytes) -> bytes:
    return _double(1, moment) + _whole(2, step) + _bytes(5, _bytes(1, value))


def _scalar(name: str, value: float) -> bytes:
    return _bytes(1, name.encode()) + _key(2, 5) + struct.pack("<f", value)


def _plugin(tag: str, content: bytes) -> bytes:
    return _bytes(1, tag.encode()) + _bytes(9, _bytes(1, _bytes(1, b"hparams") + _bytes(2, content)))


def _value(value: JsonValue) -> bytes:
    if isinstance(value, bool):
        return Value(bool_value=value).SerializeToString()
    if isinstance(value, int | float):
        return Value(number_value=value).SerializeToString()
    return Value(string_value=str(value)).SerializeToString()


# -- protocol buffers and TFRecords ------------------------------------------------------------------


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _whole(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _key(number, 1) + struct.pack("<d", value)


def _bytes(number: int, content: bytes) -> bytes:
    return _key(number, 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _crc_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CRC = tuple(_crc_table())


def _checksum(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
