"""The name of a training set: a digest of what is in it, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Part(Protocol):
    """Rows of one part: a table, or a file that is read column by column."""

    @property
    def num_rows(self) -> int: ...
    @property
    def schema(self) -> pa.Schema: ...
    def column(self, name: str) -> pa.ChunkedArray: ...


def fingerprint(
    parts: Mapping[str, Part], asked: Mapping[str, Any], offsets: Sequence[Sequence[str | int]]
) -> str:
    """`sha256:…` over the parts' rows and values in their order, what was asked for, and the
    events' offset ranges.

    How the rows lie in files, chunks or buffers does not enter; so the same events give the same
    fingerprint on any machine.
    """
    digest = hashlib.sha256(
        json.dumps(
            [asked, sorted(offsets)], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
    )
    for name in sorted(parts):
        table = parts[name]
        digest.update(f"{name} {table.num_rows}\n".encode())
        for field, column in zip(table.schema, _columns(table), strict=True):
            digest.update(f"{field.name} {field.type}\n".encode())
            _column(digest, column)
    return f"sha256:{digest.hexdigest()}"


def _columns(part: Part) -> Iterator[pa.ChunkedArray]:
    """Columns in their order; the next one is read while one is looked at."""
    names = part.schema.names
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(part.column, names[0])
        for following in [*names[1:], None]:
            column = ahead.result()
            if following:
                ahead = reader.submit(part.column, following)
            yield column


def _column(digest: hashlib._Hash, column: pa.ChunkedArray) -> None:
    missing = column.is_null().to_numpy(zero_copy_only=False)
    digest.update(np.packbits(missing).tobytes())
    if pa.types.is_string(column.type):
        filled = (
            pa.concat_arrays(pc.fill_null(column, "").chunks)
            if column.num_chunks
            else pa.array([], pa.string())
        )
        digest.update(
            pc.binary_length(filled.cast(pa.binary())).to_numpy(zero_copy_only=False).astype("<i4").tobytes()
        )
        _, offsets, data = filled.buffers()
        if data is not None:
            bounds = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
            digest.update(memoryview(data)[bounds[0] : bounds[-1]])
    elif pa.types.is_floating(column.type):
        values = pc.fill_null(column, 0.0).to_numpy().astype("<f8") + 0.0  # no -0.0
        digest.update(values.tobytes())
    else:
        digest.update(pc.fill_null(column.cast(pa.int64()), 0).to_numpy().astype("<i8").tobytes())
