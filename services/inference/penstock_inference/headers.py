"""Blocks of HTTP/2 headers (HPACK, RFC 7541) of connections that keep no table of them: each is read by
itself.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from hpack import Decoder, HPACKDecodingError
from hpack.hpack import decode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman

Fields = Mapping[str, str | bytes]

_CODED: Final = 0x80  # flag of a string's length: it is in Huffman's code
_HUFFMAN: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encodes fields whose names and values are shorter than 127 bytes each."""
    return b"".join(
        b"\0" + bytes((len(part[0]),)) + part[0] + bytes((len(part[1]),)) + part[1]
        for part in ((name.encode(), value.encode()) for name, value in fields)
    )


@lru_cache(maxsize=64)  # of those that end a call, nearly all are the same
def fields_of(block: bytes) -> Fields:
    """Fields of a block, as gRPC's metadata. Raises HPACKError, and ValueError for what is no text."""
    decoder = Decoder()
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    fields = ((name.decode(), value) for name, value in decoder.decode(block, raw=True))
    return {
        name: b64decode(value + b"==") if name.endswith("-bin") else value.decode() for name, value in fields
    }


def field_of(block: bytes, name: str) -> str | None:
    """Value of one field, None where the block has none. `name`: one that HPACK's static table lacks, so
    that it is written out. Nothing else is decoded: Huffman's code costs Python more than all the rest of a
    call. Raises HPACKError.
    """
    wanted = {(0, name.encode()), (_CODED, _coded(name))}
    for said, coded, value in _literals(block):
        if said in wanted:
            return (decode_huffman(value) if coded else value).decode()
    return None


@lru_cache
def _coded(name: str) -> bytes:
    return _HUFFMAN.encode(name.encode())


def _literals(block: bytes) -> Iterator[tuple[tuple[int, bytes], int, bytes]]:
    """Literal fields with a name of their own: this and the value as they are written."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80 or first & 0xE0 == 0x20:  # a field of the static table, or the size of the other
            at += decode_integer(block[at:], 7 if first & 0x80 else 5)[1]
            continue
        index, width = decode_integer(block[at:], 6 if first & 0x40 else 4)
        at += width
        name = (0, b"")
        if not index:
            coded, text, at = _string(block, at)
            name = coded, text
        coded, value, at = _string(block, at)
        if not index:
            yield name, coded, value


def _string(block: bytes, at: int) -> tuple[int, bytes, int]:
    length, width = decode_integer(block[at:], 7)
    end = at + width + length
    if end > len(block):
        raise HPACKDecodingError("a string is cut off")
    return block[at] & _CODED, block[at + width : end], end
