"""A family's inputs in files that are mapped into memory: written a chunk of rows at a time, so that
they need not fit there, and shared by all processes that read them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from penstock.contracts.pipeline import Ensemble, Pipeline
from penstock.modelkit.family import room_for
from penstock.modelkit.features import (
    Inputs,
    Transform,
    Wanted,
    WordNumbers,
    WordWeights,
    chunks,
    transform,
)
from penstock.modelkit.graph import Array
from penstock.modelkit.preprocessing import Preprocessing
from penstock.modelkit.rows import RowSource

SPARSE = {"words": WordWeights, "numbers": WordNumbers}
INDEX = "inputs.json"


@contextmanager
def in_files(folder: Path | None, pipeline: Pipeline) -> Iterator[Transform]:
    """`transform` with its results in files of that folder, which is gone in the end and is emptied first;
    without a folder, and for an ensemble, which takes texts as they are, in memory.
    """
    if folder is None or isinstance(pipeline.model, Ensemble):
        yield transform
        return
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    numbers = count()

    def mapped(fitted: Preprocessing, rows: RowSource, wanted: Wanted) -> Inputs:
        part = folder / str(next(numbers))
        write(part, chunks(fitted, rows, wanted))
        return read(part)

    try:
        yield mapped
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path, made: Iterable[Inputs]) -> None:
    """Writes the whole folder or none, chunk by chunk. Raises Unavailable on a full disk."""
    beside = folder.with_suffix(".new")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed here
    with room_for(beside), ExitStack() as opened:
        beside.mkdir(parents=True, mode=0o700)
        files: dict[tuple[str, str], _File] = {}
        kinds: dict[str, Any] = {}
        for chunk in made:
            for name, value in chunk.items():
                kinds[name] = _kind(value)
                for field, array in _arrays(value).items():
                    if (name, field) not in files:
                        path = beside / f"{name}.{field or 'rows'}"
                        files[name, field] = opened.enter_context(_File(path, array))
                    files[name, field].append(array, starts=field == "starts")
        index = [
            (name, kind, {field: files[name, field].about for of, field in files if of == name})
            for name, kind in kinds.items()
        ]
        (beside / INDEX).write_text(json.dumps(index))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def read(folder: Path) -> Inputs:
    """Maps the arrays. Nobody may write to them: other processes would see it."""
    found: dict[str, Array | WordWeights | WordNumbers] = {}
    for name, (kind, width), parts in json.loads((folder / INDEX).read_text()):
        arrays = {
            field: _mapped(folder / f"{name}.{field or 'rows'}", dtype, tuple(shape))
            for field, (dtype, shape) in parts.items()
        }
        if not kind:
            found[name] = arrays[""]
        elif kind == "words":
            found[name] = WordWeights(**arrays, width=width)
        else:
            found[name] = WordNumbers(**arrays)
    return found


class _File:
    """File of one array, growing by its first dimension."""

    def __init__(self, path: Path, first: Array) -> None:
        self._file = path.open("wb")
        self._dtype, self._rest, self._rows = first.dtype, first.shape[1:], 0
        self._last: int | None = None

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def about(self) -> tuple[str, list[int]]:
        return self._dtype.str, [self._rows, *self._rest]

    def append(self, array: Array, *, starts: bool) -> None:
        """`starts`: those of a chunk count from 0, and go on from the last one's."""
        if starts:
            array = array if self._last is None else array[1:] + self._last
            self._last = int(array[-1]) if len(array) else self._last
        self._file.write(np.ascontiguousarray(array, self._dtype).data)
        self._rows += len(array)


def _kind(value: Any) -> tuple[str, int]:
    kind = next((kind for kind, known in SPARSE.items() if isinstance(value, known)), "")
    return kind, getattr(value, "width", 0)


def _arrays(value: Array | WordWeights | WordNumbers) -> dict[str, Array]:
    if isinstance(value, np.ndarray):
        return {"": value}
    return {field.name: getattr(value, field.name) for field in fields(value) if field.name != "width"}


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> Array:
    if 0 in shape:  # there is nothing to map
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r+", shape=shape)
