"""Form of a message over gRPC: all of it that stands before its raw contents.

Calls of one client mostly differ in their contents alone, so a form is read once and remembered.
Protobuf reads bytes that are appended to a message into that message: the form with raw contents
after it is what the whole message says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

FORMS: Final = 256  # that are remembered
FORM_BYTES: Final = 1024  # of the longest that is
_LENGTH_DELIMITED: Final = 2  # protobuf's wire type of texts, bytes and messages
_KIND: Final = 0x87  # of a key's first byte: the wire type, and whether a second byte follows


class Form(NamedTuple):
    """A request or response without its values."""

    model: str
    version: str
    tensors: tuple[tuple[str, tuple[int, ...], str], ...]  # name, shape and datatype of each
    parameters: Mapping[str, str]  # texts of a request


class Forms:
    """Forms of one kind of message, of which `read` makes a form."""

    def __init__(self, kind: Any, raw: str, read: Callable[[Any], Form]) -> None:
        """`raw`: name of the kind's field of raw contents."""
        self._tag = kind.DESCRIPTOR.fields_by_name[raw].number << 3 | _LENGTH_DELIMITED
        self._form = lru_cache(FORMS)(lambda head: read(kind.FromString(head)))

    def known(self, message: bytes) -> tuple[Form, list[bytes]] | None:
        """Form and raw contents; None where the message must be read as a whole: without raw contents,
        with something after them, with a long form, not of the kind.
        """
        found = _divided(message, self._tag)
        if found is None:
            return None
        try:
            return self._form(found[0]), found[1]
        except DecodeError:
            return None


def _divided(message: bytes, tag: int) -> tuple[bytes, list[bytes]] | None:
    # Fields as protobuf finds them: all of these messages' have a length, and a number that fits the first
    # byte. Another one, which anybody may add, would hide contents, so it is not walked over.
    at, end, head, raw = 0, len(message), 0, []
    try:
        while at < end:
            key, length, first = message[at], message[at + 1], at + 2
            if key & _KIND != _LENGTH_DELIMITED:
                return None
            if length > 127:  # the length's second byte, and at most a third
                length, first = length - 128 + (message[first] << 7), first + 1
                if length > 0x3FFF:
                    length, first = length - 0x4000 + (message[first] << 14), first + 1
                    if length > 0x1FFFFF:
                        return None
            if key == tag:
                head = head or at
                raw.append(message[first : first + length])
            elif raw:
                return None
            at = first + length
    except IndexError:
        return None
    return (message[:head], raw) if at == end and 0 < head <= FORM_BYTES else None
