"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Prefix of files that a crash may leave behind; whoever owns the folder removes them when it opens.
UNFINISHED = ".unfinished-"


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """A path to write to. When the block ends its bytes are on disk under `target`, which is
    replaced; if it raises, nothing happened.
    """
    aside = unfinished(target)
    try:
        yield aside
        sync(aside)
        place(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def unfinished(target: Path) -> Path:
    """Path of the file that becomes `target` once it is whole."""
    return target.with_name(f"{UNFINISHED}{target.name}")


def place(aside: Path, target: Path) -> None:
    """`aside`, whose bytes are on disk already, becomes `target`."""
    aside.replace(target)
    sync(target.parent)


def write_bytes(target: Path, data: bytes) -> None:
    with arriving(target) as path:
        path.write_bytes(data)


def remove(path: Path) -> None:
    """Gone, also after a power cut."""
    path.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
